-- Requests of one tenant in one month.
-- KEYS[1] the counter · ARGV[1] the tenant · ARGV[2] the most requests, or -1 for no limit · ARGV[3] what the caller knows to
-- have been counted · ARGV[4] requests let through before and not yet counted · ARGV[5] 1 to ask for one more that may be
-- refused, 2 for one that may not, 0 only to count · ARGV[6] 1 when ARGV[3] holds what the control database says · ARGV[7]
-- when the counter may be forgotten, in Unix seconds
-- Gives {1 let through, 0 refused, -1 nothing is known here: ask the control database}, the count, 1 for another's value
local tenant, most, known = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local owed, asked = tonumber(ARGV[4]), tonumber(ARGV[5])
local foreign = 0
local used = -1
local kept = redis.call('GET', KEYS[1])
if kept then
  -- The value says whose it is. Another tenant's is as good as none.
  local whose, number = string.match(kept, '^([^|]*)|(%d+)$')
  if whose == tenant then used = tonumber(number) else foreign = 1 end
end
if used < 0 and ARGV[6] ~= '1' then
  -- Never counted, or flushed. Nothing is done, so that it may be asked again.
  return {-1, 0, foreign}
end
-- A count only goes up: what a server or the control database knows makes good for what was forgotten here.
local before = used
used = math.max(used, known) + owed
local allowed = 1
if asked == 1 and most >= 0 and used + 1 > most then
  allowed = 0
elseif asked > 0 then
  used = used + 1
end
if used ~= before then
  redis.call('SET', KEYS[1], tenant .. '|' .. string.format('%.0f', used), 'EXAT', ARGV[7])
end
return {allowed, used, foreign}
