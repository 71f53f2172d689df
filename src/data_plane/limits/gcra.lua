-- One bucket: the mirror of `settle` in gcra.rs.
-- KEYS[1] the bucket · ARGV[1] the tenant · ARGV[2] interval in µs · ARGV[3] burst · ARGV[4] requests let through before
-- and not yet paid · ARGV[5] 1 to ask for one more, 0 only to pay · ARGV[6] now in µs, or 0 for the server's clock
local tenant, interval, burst = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local owed, asked, now = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if now == 0 then
  -- The server's clock: the one all replicas share.
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local window = interval * burst
local worst = now + window + interval * math.floor(burst / 16)
local tat, foreign = 0, 0
local kept = redis.call('GET', KEYS[1])
if kept then
  -- The value says whose it is. Another tenant's is as good as none.
  local whose, number = string.match(kept, '^([^|]*)|(%d+)$')
  if whose == tenant then tat = tonumber(number) else foreign = 1 end
end
tat = math.min(math.max(tat, now), worst)
tat = math.min(tat + owed * interval, worst)
local excess = tat + asked * interval - (now + window)
local allowed = 1
if asked == 1 and excess > 0 then
  allowed = 0
else
  tat = tat + asked * interval
end
if owed > 0 or (asked == 1 and allowed == 1) then
  -- Kept a second longer than needed: an expired bucket is a full one, so forgetting early would give away requests.
  -- %.0f: the default format would round a number of this size to 14 digits.
  local value = tenant .. '|' .. string.format('%.0f', tat)
  redis.call('SET', KEYS[1], value, 'PX', math.ceil((tat - now) / 1000) + 1000)
end
return {allowed, excess, tat, now, foreign}
