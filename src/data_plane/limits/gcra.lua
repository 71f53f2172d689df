-- One request against one bucket: the mirror of `decide` in gcra.rs.
-- KEYS[1] the bucket · ARGV[1] interval in µs · ARGV[2] burst · ARGV[3] now in µs, or 0 for the server's clock
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local now = tonumber(ARGV[3])
if now == 0 then
  -- The server's clock: the one all replicas share.
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local window = interval * burst
local tat = tonumber(redis.call('GET', KEYS[1]) or 0)
tat = math.min(math.max(tat, now), now + window)
local after = tat + interval
local excess = after - (now + window)
if excess > 0 then
  return {0, 0, excess, tat - now}
end
-- Kept a second longer than needed: an expired bucket is a full one, so forgetting early would give away requests.
-- %.0f: the default format would round a number of this size to 14 digits.
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000) + 1000)
return {1, math.floor(-excess / interval), 0, after - now}
