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
--
-- Returns nil if the lease is over; else the fields and values of the user's hash as they were before.

if redis.call('EXISTS', KEYS[2]) == 0 then return false end
local before = redis.call('HGETALL', KEYS[1])
redis.call('HSET', KEYS[3], ARGV[3], ARGV[4])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return before
