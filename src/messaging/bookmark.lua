-- A bookmark in a journal is read, or kept.
--
-- KEYS[1]  the hash of a user's bookmarks
-- ARGV[1]  the bookmark's name
-- ARGV[2]  the bookmark, a text without blanks; empty: it is only read
-- ARGV[3]  how long it is kept, in seconds
-- ARGV[4]  how many bookmarks a user has at most
-- ARGV[5]  the bookmark in whose place it is kept; another one that is there stays
--
-- Returns the bookmark that is there then; empty: none is known.

local name, bookmark, keep = ARGV[1], ARGV[2], tonumber(ARGV[3])
local now = tonumber(redis.call('TIME')[1])

local function read(text)
  local known, used = string.match(text or '', '^(%S+) (%d+)$')
  if not known or now - tonumber(used) > keep then return nil, 0 end
  return known, tonumber(used)
end

local text = redis.call('HGET', KEYS[1], name)
local there = read(text)
if bookmark == '' or (there and there ~= ARGV[5]) then
  if not there then return '' end
  bookmark = there
end

local most = tonumber(ARGV[4])
if not text and redis.call('HLEN', KEYS[1]) >= most then
  local others, all = {}, redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    local _, used = read(all[i + 1])
    others[#others + 1] = { all[i], used }
  end
  table.sort(others, function(x, y) return x[2] < y[2] end)
  for i = 1, #others - (most - 1) do
    redis.call('HDEL', KEYS[1], others[i][1])
  end
end
redis.call('HSET', KEYS[1], name, bookmark .. ' ' .. string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', keep * 1000))
return bookmark
