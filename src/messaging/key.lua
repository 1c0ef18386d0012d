-- One step of a key, by which a message is published once.
--
-- KEYS[1]  the hash of a user's keys
-- ARGV[1]  the key
-- ARGV[2]  the step: begin or finish
-- ARGV[3]  how long a key is kept, in seconds
-- ARGV[4]  how many keys a user has at most
--
-- Returns what was known of the key before: 0: nothing, 1: it is pending, 2: it is done.

local keep, most = tonumber(ARGV[3]), tonumber(ARGV[4])
local now = tonumber(redis.call('TIME')[1])

local function read(text)
  local state, used = string.match(text or '', '^(%a) (%d+)$')
  if not state or now - tonumber(used) > keep then return nil, 0 end
  return state, tonumber(used)
end

local text = redis.call('HGET', KEYS[1], ARGV[1])
local known = read(text)
local state = known
if ARGV[2] == 'finish' then
  state = 'D'
elseif not known then
  state = 'P'
end

if not text and redis.call('HLEN', KEYS[1]) >= most then
  local others, all = {}, redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    local _, used = read(all[i + 1])
    others[#others + 1] = { all[i], used }
  end
  table.sort(others, function(x, y) return x[2] < y[2] end)
  for i = 1, #others - (most - 1 - math.floor(most / 10)) do
    redis.call('HDEL', KEYS[1], others[i][1])
  end
end
redis.call('HSET', KEYS[1], ARGV[1], state .. ' ' .. string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', keep * 1000))

if known == 'D' then return 2 end
if known == 'P' then return 1 end
return 0
