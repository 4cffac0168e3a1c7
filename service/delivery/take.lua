-- Takes entries that nobody has taken yet, for whoever holds the lease: who has lost it must not take any, or they would
-- wait in its name for its successor's successor.
--
-- KEYS  lease, transitions (stream)
-- ARGV  who asks, group, consumer, how many at most
-- Returns the entries, or -1 if another holds the lease.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local found = redis.call('XREADGROUP', 'GROUP', ARGV[2], ARGV[3], 'COUNT', ARGV[4], 'STREAMS', KEYS[2], '>')
return found and found[1][2] or {}
