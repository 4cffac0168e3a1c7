-- Hands one dead letter back to whoever delivers.
--
-- KEYS  dead letters (stream), held (hash)
-- ARGV  id of the letter
-- Returns 1, or 0 if there is no such letter.
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])
if #found == 0 then return 0 end
local letter = {}
for i = 1, #found[1][2], 2 do letter[found[1][2][i]] = found[1][2][i + 1] end
redis.call('HSET', KEYS[2], 'again|' .. letter['sink'] .. '|' .. ARGV[1], cjson.encode(letter))
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
