-- Finds out whether others are to be told that a user has left a room: it did not come back, on any
-- node, and no later departure of it waits.
--
-- KEYS[1]  the room's members
-- KEYS[2]  the room's users that have left, of which others were not told yet
-- KEYS[3]  the caller's lease
-- KEYS[4]  the list of members of the node that the user left
-- ARGV[1]  the user
-- ARGV[2]  its field in the list
-- ARGV[3]  the departure's stamp, or '' for any
-- ARGV[4]  'forgotten' if Redis has lost all since the user left; 'unsure' if an answer about the user
--          was lost, so that others may not have been told, and 'last' if one about the room was, too;
--          or ''
--
-- Returns nil if the caller's lease is over; 0 if there is nothing to tell; else four numbers: 1 if the
-- room is empty now or else 0, its members, and the time in seconds and microseconds.

if redis.call('EXISTS', KEYS[3]) == 0 then return false end
if redis.call('HGET', KEYS[4], ARGV[2]) == '0' then redis.call('HDEL', KEYS[4], ARGV[2]) end
if redis.call('HGET', KEYS[1], ARGV[1]) then return 0 end
local left = redis.call('HGET', KEYS[2], ARGV[1])
if left then
  if ARGV[3] ~= '' and left ~= ARGV[3] then return 0 end
  redis.call('HDEL', KEYS[2], ARGV[1])
elseif ARGV[4] == '' then
  return 0
end
local members = redis.call('HLEN', KEYS[1])
local vacated = members == 0 and redis.call('EXISTS', KEYS[2]) == 0
if not left and ARGV[4] == 'unsure' then vacated = false end
local time = redis.call('TIME')
return {vacated and 1 or 0, members, tonumber(time[1]), tonumber(time[2])}
