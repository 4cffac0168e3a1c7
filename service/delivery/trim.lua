-- Trims the transitions of a partition: beyond `retained` entries goes what every sink has had, beyond `limit` what not.
--
-- KEYS  transitions (stream), book (hash: what was cut off by whom)
-- ARGV  retained, limit, most to look at in this call, then the groups that count
-- Returns entries deleted, entries that some sink had not had, and whether there may be more to trim. Consumers of workers
-- that are long gone are forgotten on the way.
local stream, book = KEYS[1], KEYS[2]
local retained, limit, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local forget_ms = 3600000

local function split(id)
  local ms, n = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(n)
end
local function before(a, b)
  local ams, an = split(a)
  local bms, bn = split(b)
  return ams < bms or (ams == bms and an < bn)
end
local function named(list)
  local found = {}
  for i = 1, #list, 2 do found[list[i]] = list[i + 1] end
  return found
end

local cut = tonumber(redis.call('HGET', book, 'cut') or '0')  -- by commits, since we last looked: see commit.lua
if cut > 0 then redis.call('HDEL', book, 'cut') end
local length = redis.call('XLEN', stream)
if length == 0 then return {0, cut, 0} end
if cut > 0 then  -- what a listener has not heard of before the first entry, it never will
  local ms = split(redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1][1])
  redis.call('HSET', book, 'trimmed', string.format('%.0f-0', ms - 1))
end

local wanted = {}
for i = 4, #ARGV do wanted[ARGV[i]] = true end
local undelivered = nil  -- the first entry that some sink has not had
for _, raw in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local group = named(raw)
  if wanted[group['name']] then
    local first = nil
    if group['pending'] > 0 then
      first = redis.call('XPENDING', stream, group['name'])[2]
    else
      local ms, n = split(group['last-delivered-id'])
      first = string.format('%.0f-%.0f', ms, n + 1)
    end
    if undelivered == nil or before(first, undelivered) then undelivered = first end
    for _, other in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group['name'])) do
      local consumer = named(other)
      if consumer['pending'] == 0 and consumer['idle'] > forget_ms then
        redis.call('XGROUP', 'DELCONSUMER', stream, group['name'], consumer['name'])
      end
    end
  end
end

local excess = length - retained
if excess <= 0 then return {0, cut, 0} end
local looked = math.min(excess, most)
local deleted, dropped, last = 0, 0, nil
for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+', 'COUNT', looked)) do
  local delivered = undelivered == nil or before(entry[1], undelivered)
  if not delivered and length - deleted <= limit then break end
  if not delivered then dropped = dropped + 1 end
  deleted, last = deleted + 1, entry[1]
end
if last then
  local ms, n = split(last)
  redis.call('XTRIM', stream, 'MINID', string.format('%.0f-%.0f', ms, n + 1))
  redis.call('HSET', book, 'trimmed', last)
end
return {deleted, dropped + cut, (deleted == looked and excess > looked) and 1 or 0}
