-- Takes, renews or gives back the lease on a partition for one sink.
--
-- KEYS  lease
-- ARGV  who asks, for how many ms (0 gives it back)
-- Returns 2 (taken), 1 (renewed), 0 (another has it, or it was given back).
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return owner and 1 or 2
