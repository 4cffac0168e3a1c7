-- Replaces an alert that is as it was read, and tells of it.
--
-- KEYS  alerts (hash), transitions (stream)
-- ARGV  the alert's field, its record as read, the new record, bound of the stream
-- Returns 1 (replaced) or 0 (the alert has moved on).
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'alert', ARGV[3])
return 1
