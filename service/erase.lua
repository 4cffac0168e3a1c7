-- Deletes everything that the store knows of one vehicle, unless its journal has moved to another snapshot.
--
-- KEYS  vehicles, risks, alerts, head, journal, snapshot (the head's own key if there is none)
-- ARGV  id, base that names that snapshot ('' if there is no journal)
-- Returns 1, or 0 if the base is another one.
local base = redis.call('GETRANGE', KEYS[5], 0, 31)
if base ~= ARGV[2] then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('UNLINK', KEYS[4], KEYS[5], KEYS[6])
return 1
