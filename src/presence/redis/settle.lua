-- Compares a user's status with the one that others were last told, and writes the new one down.
-- All nodes' scripts run one after the other, so exactly one of them finds each change.
--
-- KEYS[1]  the user's hash: '' is what was told, and what was told before that, 'left' the departure
--          that waits, a lease the user's status at that node, the rest sessions
-- KEYS[2]  the caller's lease
-- KEYS[3]  the hash of all leases
-- KEYS[4]  the number of users
-- ARGV[1]  the meaning of "nothing was told": 'as-is' (the user was offline), 'restored' (Redis lost
--          what was told, and it was what is true now) or a status, as a number (Redis lost it, and it
--          was that)
-- ARGV[2]  the user's status by the caller's own sessions, as a number
-- ARGV[3]  the stamp of the departure that the caller settles, or ''
-- ARGV[4]  missing most of the time. An answer about this user was lost, so others may not have been
--          told what Redis says they were: the status to name as the former one if the user is gone
--
-- Returns nil if the caller's lease is over; 0 if nothing is new; else four numbers: what was told,
-- what is true, and the time in seconds and microseconds. After a lost answer it is never 0: what is
-- true may be told twice, but is told.
--
-- While another departure waits, on a node that lives, the script tells nothing less than was told:
-- the settling of that departure finds what is less then.
--
-- The script reads no session: its work is in proportion to the nodes, and a user who is logged in a
-- hundred thousand times costs no more than one who is logged in once. If the caller's own status is
-- what was told, it does not read the other nodes either. A session elsewhere may say more, but then
-- the script that follows its own writing finds that.

if redis.call('EXISTS', KEYS[2]) == 0 then return false end
local node = string.sub(KEYS[2], 1, -9)
local told, left = unpack(redis.call('HMGET', KEYS[1], '', 'left'))
if left and (string.sub(left, 9) == ARGV[3]
    or redis.call('EXISTS', node .. string.sub(left, 1, 8)) == 0) then
  redis.call('HDEL', KEYS[1], 'left')
  left = false
end
local former = told and string.byte(told, 2) or 0
told = told and string.byte(told) or 0
local unsure = tonumber(ARGV[4])
if told == tonumber(ARGV[2]) and told > 0 and not unsure then return 0 end
local leases = redis.call('HKEYS', KEYS[3])
local now = 0
-- In parts: Lua takes some thousands of arguments and no more.
for first = 1, #leases, 1000 do
  local last = math.min(first + 999, #leases)
  local here = redis.call('HMGET', KEYS[1], unpack(leases, first, last))
  for i = first, last do
    local status = here[i - first + 1]
    status = status and string.byte(status) or 0
    if status > now and redis.call('EXISTS', node .. leases[i]) == 1 then now = status end
  end
end
if left and now < told then
  if not unsure then return 0 end
  now = told
end
if told ~= now then
  if now == 0 then
    redis.call('HDEL', KEYS[1], '')
    if redis.call('DECR', KEYS[4]) <= 0 then redis.call('DEL', KEYS[4]) end
  else
    redis.call('HSET', KEYS[1], '', string.char(now, told))
    if told == 0 then redis.call('INCR', KEYS[4]) end
  end
end
if told == 0 then
  if ARGV[1] == 'restored' then told = now else told = tonumber(ARGV[1]) or 0 end
end
if told == now then
  if not unsure then return 0 end
  told = now == 0 and unsure or former
elseif unsure and now == 0 and told == 4 then
  -- That the user hides may be what nobody was told.
  told = unsure
end
local time = redis.call('TIME')
return {told, now, tonumber(time[1]), tonumber(time[2])}
