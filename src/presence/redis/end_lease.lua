-- Ends a lease, and leaves what is under it to those who clear up; they wait a debounce, for its users
-- may be on their way to another. If one of them has begun, it stays noted: the next one is to know.
--
-- KEYS[1]  the hash of all leases
-- KEYS[2]  the lease
-- ARGV[1]  its field in the hash
-- ARGV[2]  the field's value if nobody has begun
-- ARGV[3]  the beginning of its value if somebody has

local how = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if string.sub(how, 1, #ARGV[3]) ~= ARGV[3] then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
redis.call('DEL', KEYS[2])
return 1
