-- Commits one batch of vehicles of one partition, each on its own: a loser never fails its neighbours.
--
-- KEYS  vehicles (by when they were heard), risks, alerts (hash), transitions (stream), open alerts (hash), delivery (hash),
--       then per vehicle: head, journal,
--       new snapshot, old snapshot (the head's own key stands in for a snapshot that there is not), with history also its
--       tail and its list (service/records/history.py); then per write into a trend: the trend
-- ARGV  bound of the stream, bytes of a version, bytes of a base, bytes of an entry, vehicles, beginning of a tail ('': this
--       call is without history), bytes from which a tail becomes a block of the list, bytes and milliseconds that the list
--       may hold, then per vehicle:
--       id, expected version, new head, entries to append,
--       new base ('' leaves it), expected base ('' takes any), entries to keep when the base is new,
--       what becomes of its alerts, line by line: what to do, the alert's field, its place among the open ones
--       ('-': it is not open) and its record. '+' replaces the record and tells, '=' replaces it and is no news,
--       '~' forgets and tells, '-' (a field, nothing else) forgets; with history also the samples to retain ('' none, '-'
--       forget all);
--       then per write into a trend: its vehicle's place, offset, bytes ('' removes the trend), full length
-- Returns per vehicle 1 (won), 2 (won, but there was no journal to append to), 3 (won, and the list has a new block),
-- 0 (head or base has moved on) or -1 (the new snapshot is not there).
local shared, per_key, per_arg, first_arg = 6, 4, 8, 9
local vehicles = tonumber(ARGV[5])
local tail_start, tail_bytes, list_bytes, list_ms = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
if tail_start ~= '' then per_key, per_arg = 6, 9 end
local last_of_version, base_bytes, entry_bytes = tonumber(ARGV[2]) - 1, tonumber(ARGV[3]), tonumber(ARGV[4])
local results, by_heard, by_risk = {}, {}, {}

-- An alert that was acknowledged stays so, however long ago the worker read it. In JSON a bare quote ends a text, so
-- that the field is found where it is and nowhere else; "id" is the first field of a record, "acknowledged" the last.
local function acknowledged(field, alert)
  local last, before = ', "acknowledged": ', redis.call('HGET', KEYS[3], field)
  local id = string.match(alert, '^{"id": "[^"]+"')
  if not before or not id or string.sub(before, 1, #id) ~= id then return alert end
  local from, to = string.find(before, last, 1, true), string.find(alert, last, 1, true)
  return from and to and string.sub(alert, 1, to - 1) .. string.sub(before, from) or alert
end

-- Whoever delivers trims the stream long before its bound; what is cut off here nobody may have had, and it is counted.
local function tell(alert)
  local length = redis.call('XLEN', KEYS[4])
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[1], '*', 'alert', alert)
  local cut = length + 1 - redis.call('XLEN', KEYS[4])
  if cut > 0 then redis.call('HINCRBY', KEYS[6], 'cut', cut) end
end

for i = 1, vehicles do
  local k, a = shared + (i - 1) * per_key, first_arg + (i - 1) * per_arg
  local head, journal, fresh = KEYS[k + 1], KEYS[k + 2], KEYS[k + 3]
  local id, expected, record, base, old_base = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 5], ARGV[a + 6]
  results[i] = 1
  if redis.call('GETRANGE', head, 0, last_of_version) ~= expected then
    results[i] = 0
  elseif base ~= '' then
    if old_base ~= '' and redis.call('GETRANGE', journal, 0, base_bytes - 1) ~= old_base then
      results[i] = 0
    elseif fresh ~= head and redis.call('EXISTS', fresh) == 0 then
      results[i] = -1
    end
  end
  if results[i] == 1 then
    local heard, risk = struct.unpack('<i8', record, 49), struct.unpack('<f', record, 41)
    if heard < 0 then
      redis.call('ZADD', KEYS[1], 'NX', 0, id)  -- announced, never heard of
    else
      by_heard[#by_heard + 1], by_heard[#by_heard + 2] = heard, id
    end
    by_risk[#by_risk + 1], by_risk[#by_risk + 2] = risk == risk and risk or 0, id
  elseif fresh ~= head then
    redis.call('UNLINK', fresh)
  end
end

-- The time of a block's last sample: in its header when it is packed, else in its last record.
local function last_ts(block)
  local kind, record_bytes = struct.unpack('<I2I2', block, 5)
  return struct.unpack('<i8', block, kind == 1 and 17 or #block - record_bytes + 9)
end

-- Appends a vehicle's samples to its tail; whether that became a block of the list, which is kept within its bounds.
local function retain(tail, list, samples, ts)
  if samples == '' then return false end
  if samples == '-' then
    redis.call('UNLINK', tail, list)
    return false
  end
  local length
  if redis.call('GETRANGE', tail, 0, #tail_start - 1) == tail_start then
    length = redis.call('APPEND', tail, samples)
  else  -- a new tail, or one of other signals
    if redis.call('EXISTS', tail) == 1 then redis.call('RPUSH', list, redis.call('GET', tail)) end
    redis.call('SET', tail, tail_start .. samples)
    length = #tail_start + #samples
  end
  if length < tail_bytes then return false end
  redis.call('RPUSH', list, redis.call('GET', tail))
  redis.call('UNLINK', tail)
  while redis.call('LLEN', list) > 1 and (redis.call('MEMORY', 'USAGE', list, 'SAMPLES', 0) > list_bytes
      or last_ts(redis.call('LINDEX', list, 0)) < ts - list_ms) do
    redis.call('LPOP', list)
  end
  return true
end

-- What can fail on a key of the wrong type comes before what cannot be undone.
if #by_heard > 0 then redis.call('ZADD', KEYS[1], unpack(by_heard)) end
if #by_risk > 0 then redis.call('ZADD', KEYS[2], unpack(by_risk)) end

for i = 1, #results do
  if results[i] == 1 then
    local k, a = shared + (i - 1) * per_key, first_arg + (i - 1) * per_arg
    local head, journal, fresh, old = KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], KEYS[k + 4]
    local id, record, entries, base, alerts = ARGV[a + 1], ARGV[a + 3], ARGV[a + 4], ARGV[a + 5], ARGV[a + 8]
    redis.call('SET', head, record)
    if base == '' then
      if redis.call('APPEND', journal, entries) < base_bytes + #entries then results[i] = 2 end
    else
      local keep, length = tonumber(ARGV[a + 7]) * entry_bytes, redis.call('STRLEN', journal) - base_bytes
      if length < keep then keep = length end
      local kept = keep > 0 and redis.call('GETRANGE', journal, -keep, -1) or ''
      redis.call('SET', journal, base .. kept .. entries)
      if fresh ~= head then redis.call('PERSIST', fresh) end
      if old ~= head then redis.call('UNLINK', old) end
    end
    if tail_start ~= '' and retain(KEYS[k + 5], KEYS[k + 6], ARGV[a + 9], struct.unpack('<i8', record, 25)) then
      results[i] = 3
    end
    for line in string.gmatch(alerts, '[^\n]+') do
      local what, field, place, alert = string.match(line, '^(.)(%S+) ?(%S*) ?(.*)$')
      if place == '' or place == '-' then redis.call('HDEL', KEYS[5], field) else redis.call('HSET', KEYS[5], field, place) end
      if what == '+' or what == '~' then alert = acknowledged(field, alert) end
      if what == '-' or what == '~' then redis.call('HDEL', KEYS[3], field) else redis.call('HSET', KEYS[3], field, alert) end
      if what == '+' or what == '~' then tell(alert) end
    end
  end
end
local first_trend, first_write = shared + vehicles * per_key, first_arg + vehicles * per_arg
for j = 1, #KEYS - first_trend do
  local trend, a = KEYS[first_trend + j], first_write + (j - 1) * 4
  if results[tonumber(ARGV[a + 1])] >= 1 then
    if ARGV[a + 3] == '' then
      redis.call('UNLINK', trend)
    else
      if redis.call('EXISTS', trend) == 0 then redis.call('SETRANGE', trend, ARGV[a + 4] - 1, '\0') end
      redis.call('SETRANGE', trend, ARGV[a + 2], ARGV[a + 3])
    end
  end
end
return results
