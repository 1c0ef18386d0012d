-- Writes a record that all nodes share, unless a newer one or the same is there.
--
-- KEYS[1]  the hash of the records
-- ARGV[1]  the record's key
-- ARGV[2]  its stamp
-- ARGV[3]  its value
-- ARGV[4]  the hash's version from then on, which stands in the field without a name
-- ARGV[5]  how many records there may be
--
-- Returns 1 if there is no room for it, else 0.

local known = redis.call('HGET', KEYS[1], ARGV[1])
if known then
  -- Another program's value has no stamp, and gives way.
  local stamp = tonumber(string.match(known, '^(%d+) ') or -1)
  if stamp >= tonumber(ARGV[2]) then return 0 end
elseif redis.call('HLEN', KEYS[1]) > tonumber(ARGV[5]) then
  return 1
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3], '', ARGV[4])
return 0
