-- Reads a user's fields: all of them; of a user who has very many, about so many as are wanted.
--
-- KEYS[1]  the user's hash
-- ARGV[1]  how many are wanted at most
--
-- Returns fields and values in turn.

if redis.call('HLEN', KEYS[1]) <= tonumber(ARGV[1]) then return redis.call('HGETALL', KEYS[1]) end
return redis.call('HSCAN', KEYS[1], 0, 'COUNT', ARGV[1])[2]
