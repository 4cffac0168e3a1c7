-- Puts a packed block of the history into the place of the raw one that it was made from.
--
-- KEYS  history (list)
-- ARGV  place from the end (-1: the last), SHA-1 of the raw block, packed block
-- Returns 1, or 0 if another block is there by now.
local there = redis.call('LINDEX', KEYS[1], ARGV[1])
if not there or redis.sha1hex(there) ~= ARGV[2] then return 0 end
redis.call('LSET', KEYS[1], ARGV[1], ARGV[3])
return 1
