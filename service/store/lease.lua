-- Takes or renews the lease of a partition.
--
-- KEYS  lease
-- ARGV  who asks, milliseconds that the lease lasts
-- Returns 1 (it is theirs) or 0 (it is somebody else's).
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
