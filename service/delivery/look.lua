-- Reads entries of a stream, and the clock by which entries get their ids: what comes later has no earlier time.
--
-- KEYS  transitions (stream)
-- ARGV  from, to, how many at most
-- Returns the time in ms, and the entries.
local now = redis.call('TIME')
return {now[1] * 1000 + math.floor(now[2] / 1000), redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])}
