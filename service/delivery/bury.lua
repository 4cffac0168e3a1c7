-- Puts one notice among the dead letters.
--
-- KEYS  dead letters (stream)
-- ARGV  how many are kept, then the fields
-- Returns how many old ones had to go.
redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
return redis.call('XTRIM', KEYS[1], 'MAXLEN', ARGV[1])
