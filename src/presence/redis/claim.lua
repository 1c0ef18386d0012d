-- Writes a session down, if the lease of its node still holds: without the lease, nobody would clear
-- up after the session.
--
-- KEYS[1]  the user's hash
-- KEYS[2]  the node's lease
-- KEYS[3]  the node's list of sessions
-- ARGV[1]  the session's field in the user's hash
-- ARGV[2]  its value there
-- ARGV[3]  the session's field in the node's list
-- ARGV[4]  its value there
-- ARGV[5]  how many fields of the user are read at most: with more, Redis would stand still
--
-- Returns nil if the lease is over; the number of the user's fields if they are more; else the fields
-- and values of the user's hash as they were before.

if redis.call('EXISTS', KEYS[2]) == 0 then return false end
local fields = redis.call('HLEN', KEYS[1])
local before = fields
if fields <= tonumber(ARGV[5]) then before = redis.call('HGETALL', KEYS[1]) end
redis.call('HSET', KEYS[3], ARGV[3], ARGV[4])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return before
