-- Removes a record that all nodes share, if it is this very one.
--
-- KEYS[1]  the hash of the records
-- ARGV[1]  the record's key
-- ARGV[2]  its stamp
-- ARGV[3]  the hash's version from then on, which stands in the field without a name
--
-- Returns 1 if it is removed, else 0.

local known = redis.call('HGET', KEYS[1], ARGV[1])
if not known or string.match(known, '^%d+') ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], '', ARGV[3])
return 1
