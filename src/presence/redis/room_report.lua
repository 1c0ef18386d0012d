-- Writes down how many sessions of a user a node has in a room. All nodes' scripts run one after the
-- other, so exactly one of them finds that the user came, or that the room is full.
--
-- KEYS[1]   the room's members: of each user the number of sessions, on all nodes
-- KEYS[2]   the room's users that have left, of which others were not told yet
-- KEYS[3]   the caller's lease
-- KEYS[4]   the number of sessions of each room
-- KEYS[5]   the list of members of the node that it is about
-- KEYS[6…]  lists under leases that the node had before
-- ARGV[1]   the user
-- ARGV[2]   its field in the lists
-- ARGV[3]   the number of sessions
-- ARGV[4]   how many members the room may have for this one to come in, or 0
-- ARGV[5]   the departure's stamp, if the user leaves
-- ARGV[6]   'quiet' if others know that the user is here, and Redis has forgotten it; 'unsure' if an
--           answer about the user was lost, so that others may not know what Redis says they do;
--           'first' if one about the room was, too; or ''
-- ARGV[7]   the room
--
-- Returns nil if the caller's lease is over; -1 if the room is full, and then nothing is written; four
-- numbers if the user came: 1 if the room was empty before or else 0, the members now, and the time in
-- seconds and microseconds; otherwise 0. After a lost answer a user who is here has come: that may be
-- told twice, but is told.
--
-- Its work does not depend on how many are in the room.

if redis.call('EXISTS', KEYS[3]) == 0 then return false end
local sessions = tonumber(ARGV[3])
local total = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0)
local most = tonumber(ARGV[4])
if most > 0 and sessions > 0 and total == 0 and redis.call('HLEN', KEYS[1]) >= most then return -1 end
local before = 0
for i = 5, #KEYS do
  local known = redis.call('HGET', KEYS[i], ARGV[2])
  if known then
    before = before + tonumber(known)
    if i > 5 then redis.call('HDEL', KEYS[i], ARGV[2]) end
  end
end
local now = math.max(total - before, 0) + sessions
if now ~= total then
  if now > 0 then
    redis.call('HSET', KEYS[1], ARGV[1], now)
  else
    redis.call('HDEL', KEYS[1], ARGV[1])
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[5])
  end
  local all = tonumber(redis.call('HGET', KEYS[4], ARGV[7]) or 0) + now - total
  if all > 0 then
    redis.call('HSET', KEYS[4], ARGV[7], all)
  else
    redis.call('HDEL', KEYS[4], ARGV[7])
  end
end
if sessions > 0 then
  redis.call('HSET', KEYS[5], ARGV[2], sessions)
  local comes = total == 0
  if comes and redis.call('HDEL', KEYS[2], ARGV[1]) == 1 then comes = false end
  if ARGV[6] == 'quiet' or (not comes and ARGV[6] == '') then return 0 end
  local members = redis.call('HLEN', KEYS[1])
  local first = ARGV[6] == 'first'
  if comes then first = members == 1 and redis.call('EXISTS', KEYS[2]) == 0 end
  local time = redis.call('TIME')
  return {first and 1 or 0, members, tonumber(time[1]), tonumber(time[2])}
end
if now == 0 and total > 0 then
  -- Until it is settled, whoever clears up after this node has to find it.
  redis.call('HSET', KEYS[5], ARGV[2], 0)
elseif redis.call('HGET', KEYS[5], ARGV[2]) ~= '0' then
  redis.call('HDEL', KEYS[5], ARGV[2])
end
return 0
