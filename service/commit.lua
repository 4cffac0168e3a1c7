-- Commits one batch of vehicles of one partition, each on its own: a loser never fails its neighbours.
--
-- KEYS  vehicles (by last ts), risks, alerts (hash), transitions (stream), then per vehicle: head, journal,
--       new snapshot, old snapshot (the head's own key stands in for a snapshot that there is not)
-- ARGV  bound of the stream, bytes of a version, bytes of a base, bytes of an entry, then per vehicle:
--       id, expected version, new head, entries to append,
--       new base ('' leaves it), expected base ('' takes any), entries to keep when the base is new,
--       what becomes of its alert, line by line ('-' forget, '=' and JSON: replace it, which is no
--       news; else JSON: replace and tell)
-- Returns per vehicle 1 (won), 2 (won, but there was no journal to append to), 0 (head or base has moved on) or
-- -1 (the new snapshot is not there).
local shared, per_key, per_arg, first_arg = 4, 4, 8, 4
local last_of_version, base_bytes, entry_bytes = tonumber(ARGV[2]) - 1, tonumber(ARGV[3]), tonumber(ARGV[4])
local results, by_ts, by_risk = {}, {}, {}

for i = 1, (#KEYS - shared) / per_key do
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
    local ts, risk = struct.unpack('<i8', record, 25), struct.unpack('<f', record, 41)
    if ts < 0 then
      redis.call('ZADD', KEYS[1], 'NX', 0, id)  -- announced, never heard of
    else
      by_ts[#by_ts + 1], by_ts[#by_ts + 2] = ts, id
    end
    by_risk[#by_risk + 1], by_risk[#by_risk + 2] = risk == risk and risk or 0, id
  elseif fresh ~= head then
    redis.call('UNLINK', fresh)
  end
end

-- What can fail on a key of the wrong type comes before what cannot be undone.
if #by_ts > 0 then redis.call('ZADD', KEYS[1], unpack(by_ts)) end
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
    for alert in string.gmatch(alerts, '[^\n]+') do
      if alert == '-' then
        redis.call('HDEL', KEYS[3], id)
      elseif string.sub(alert, 1, 1) == '=' then
        redis.call('HSET', KEYS[3], id, string.sub(alert, 2))
      else
        redis.call('HSET', KEYS[3], id, alert)
        redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[1], '*', 'alert', alert)
      end
    end
  end
end
return results
