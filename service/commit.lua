-- Commits one batch of vehicles of one partition, each on its own: a loser never fails its neighbours.
--
-- KEYS  vehicles (by last ts), risks, alerts (hash), transitions (stream), then per vehicle: head, new snapshot, old snapshot
--       (the head's own key stands in for a snapshot that does not exist)
-- ARGV  bound of the stream, bytes of a version, then per vehicle: id, expected version, new head, ts, risk,
--       what becomes of its alert ('' nothing, '-' forget, else JSON)
-- Returns per vehicle 1 (won), 0 (the head has moved on) or -1 (the new snapshot is not there).
local results = {}
local shared, per_key, per_arg = 4, 3, 6
local last = tonumber(ARGV[2]) - 1
for i = 0, (#KEYS - shared) / per_key - 1 do
  local head, fresh, old = KEYS[shared + i * per_key + 1], KEYS[shared + i * per_key + 2], KEYS[shared + i * per_key + 3]
  local a = 2 + i * per_arg
  local id, expected, record, ts, risk, alert =
    ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4], ARGV[a + 5], ARGV[a + 6]
  if redis.call('GETRANGE', head, 0, last) ~= expected then
    if fresh ~= head then redis.call('UNLINK', fresh) end
    results[#results + 1] = 0
  elseif fresh ~= head and redis.call('PERSIST', fresh) == 0 then
    results[#results + 1] = -1
  else
    -- What can fail on its arguments comes before what cannot be undone.
    redis.call('ZADD', KEYS[1], ts, id)
    redis.call('ZADD', KEYS[2], risk, id)
    redis.call('SET', head, record)
    if old ~= head then redis.call('UNLINK', old) end
    if alert == '-' then
      redis.call('HDEL', KEYS[3], id)
    elseif alert ~= '' then
      redis.call('HSET', KEYS[3], id, alert)
      redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[1], '*', 'alert', alert)
    end
    results[#results + 1] = 1
  end
end
return results
