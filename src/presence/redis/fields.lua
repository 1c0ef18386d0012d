-- Reads a hash's fields: all of them in one go; of a hash that has very many, a part.
--
-- KEYS[1]  the hash
-- ARGV[1]  where the part begins: 0, or what the part before it gave back
-- ARGV[2]  how many fields are wanted at most, about
--
-- Returns where the next part begins, 0 if there is none; and fields and values in turn. A field may
-- be in two parts.

if ARGV[1] == '0' and redis.call('HLEN', KEYS[1]) <= tonumber(ARGV[2]) then
  return {'0', redis.call('HGETALL', KEYS[1])}
end
return redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
