-- Erases one vehicle: everything that belongs to it alone, and its place in what the partition's vehicles share.
--
-- KEYS  vehicles, risks, alerts, open alerts, head, journal, snapshot (the head's own key stands in for one that there is not),
--       trend, tail and list of the history
-- ARGV  id, expected version ('' of a vehicle without head), expected base ('' without journal), rules of alerts
-- Returns 1 (erased) or 0 (the vehicle has moved on).
local head, journal = KEYS[5], KEYS[6]
local function first(key, expected)
  return redis.call('GETRANGE', key, 0, math.max(#expected, 1) - 1)
end
if first(head, ARGV[2]) ~= ARGV[2] or first(journal, ARGV[3]) ~= ARGV[3] then return 0 end
redis.call('UNLINK', head, journal, KEYS[7], KEYS[8], KEYS[9], KEYS[10])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])  -- from before alerts had rules
for i = 4, #ARGV do
  redis.call('HDEL', KEYS[3], ARGV[1] .. '|' .. ARGV[i])
  redis.call('HDEL', KEYS[4], ARGV[1] .. '|' .. ARGV[i])
end
return 1
