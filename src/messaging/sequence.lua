-- One step of a sequence's entry; record.rs has the rules.
--
-- KEYS[1]  the hash of a user's sequences
-- ARGV[1]  the device
-- ARGV[2]  the step: open, look, reserve, commit or release
-- ARGV[3]  the connection's epoch
-- ARGV[4]  open: the number that the client told; reserve: to which number; commit: from which
--          number; release: the last number that may have been handed over
-- ARGV[5]  commit: to which number; open: the epoch that the login has found, 0 if there was none
-- ARGV[6]  how long an entry is kept, in seconds
-- ARGV[7]  how many devices a user has at most
-- ARGV[8]  how many numbers count as unknown if something was forgotten
-- ARGV[9]  the greatest number
--
-- Returns the outcome (0: done, 1: taken, 2: lost, 3: changed), epoch, last, reserved and busy.

local device, step = ARGV[1], ARGV[2]
local epoch, a, b = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local keep = tonumber(ARGV[6])
local now = tonumber(redis.call('TIME')[1])

local function read(text)
  local e, l, r, y, u = string.match(text or '', '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
  if not e or now - tonumber(u) > keep then return nil end
  return { tonumber(e), tonumber(l), tonumber(r), tonumber(y), tonumber(u) }
end

local entry = read(redis.call('HGET', KEYS[1], device))
if not entry and step ~= 'open' then return { 2, 0, 0, 0, 0 } end
-- A call that comes late takes nothing from another connection, and pushes no other device out.
if step == 'open' and (entry and entry[1] or 0) ~= b then return { 3, 0, 0, 0, 0 } end

-- 0, if the sequence is the connection's; epochs grow, so a smaller one has lost its login.
local function check()
  if entry[1] > epoch then return 1 end
  if entry[1] < epoch then return 2 end
  return 0
end

local outcome = 0
if step == 'open' then
  local most = tonumber(ARGV[7])
  if not entry and redis.call('HLEN', KEYS[1]) >= most then
    -- Those with messages under way go last.
    local others, all = {}, redis.call('HGETALL', KEYS[1])
    for i = 1, #all, 2 do
      local other = read(all[i + 1]) or { 0, 0, 0, 0, 0 }
      others[#others + 1] = { all[i], other[5], other[4] ~= 0 }
    end
    table.sort(others, function(x, y)
      if x[3] ~= y[3] then return y[3] end
      return x[2] < y[2]
    end)
    for i = 1, #others - (most - 1) do
      redis.call('HDEL', KEYS[1], others[i][1])
    end
  end
  entry = entry or { 0, 0, 0, 0, 0 }
  entry[1] = math.min(math.max(epoch, entry[1] + 1), tonumber(ARGV[9]))
  if a > entry[2] then
    entry[2] = a
    entry[3] = math.max(entry[3], math.min(a + tonumber(ARGV[8]), tonumber(ARGV[9])))
  end
elseif step == 'reserve' then
  outcome = check()
  if outcome == 0 then
    entry[3] = math.max(entry[3], a)
    entry[4] = epoch
  end
elseif step == 'commit' then
  if entry[4] ~= epoch then outcome = check() end
  if outcome == 0 and a > entry[2] then outcome = 2 end
  if outcome == 0 then
    entry[2] = math.max(entry[2], b)
    entry[3] = math.max(entry[3], entry[2])
  end
elseif step == 'release' then
  if entry[1] == epoch then
    entry[3] = math.max(a, entry[2])
  elseif entry[1] < epoch then
    entry[3] = math.max(entry[3], a)
  end
  if entry[4] == epoch then entry[4] = 0 end
end

if outcome == 0 then
  local text = string.format('%.0f %.0f %.0f %.0f %.0f',
    entry[1], entry[2], entry[3], entry[4], now)
  redis.call('HSET', KEYS[1], device, text)
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', keep * 1000))
end
return { outcome, entry[1], entry[2], entry[3], entry[4] }
