-- Points a vehicle's journal to a snapshot that was just written and drops the entries that nobody needs any more.
--
-- KEYS  head, journal, new snapshot, old snapshot (the head's own key stands in for one that there is not)
-- ARGV  expected base, new base, bytes of an entry, entries to keep at least, nonce of the commit whose state the
--       snapshot holds
-- Returns 1 (flipped), 0 (the journal has moved on, or does not contain that commit) or -1 (the snapshot is not there).
-- The head is only read: no worker's cached version becomes stale by a flip.
local head, journal, fresh, old = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local expected, base, entry_bytes, keep = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local function stays()
  redis.call('UNLINK', fresh)
  return 0
end

if redis.call('GETRANGE', journal, 0, #base - 1) ~= expected then return stays() end
local version = redis.call('GETRANGE', head, 0, 35)
if #version < 36 or string.sub(version, 1, 4) ~= string.sub(base, 1, 4) then return stays() end  -- another session
local entries = (redis.call('STRLEN', journal) - #base) / entry_bytes
local pending = struct.unpack('<I4', version, 33) - struct.unpack('<I4', base, 5)
if pending < 0 or pending >= entries then return stays() end
-- Equal numbers are not enough: a store that went back in time may have come to them by other samples.
local nonce_at = #base + (entries - pending - 1) * entry_bytes + 24
if redis.call('GETRANGE', journal, nonce_at, nonce_at + 7) ~= ARGV[5] then return stays() end
if redis.call('PERSIST', fresh) == 0 then return -1 end
if pending > keep then keep = pending end
if keep < entries then
  redis.call('SET', journal, base .. redis.call('GETRANGE', journal, -keep * entry_bytes, -1))
else
  redis.call('SETRANGE', journal, 0, base)
end
if old ~= head then redis.call('UNLINK', old) end
return 1
