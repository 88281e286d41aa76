-- An agent has been silent for long: its host is inferred from now on.
--
--   <prefix>heard, silent, agents, agent:<host>, host:<host>, image:<hex>: see names.Keys
-- ARGV[2]  host
-- ARGV[3]  ms by the consumers' clocks: nothing was heard since
-- ARGV[4]  source of what the agent held
-- Returns 1 where the host was agent-managed, else 0.
local host = ARGV[2]
local last = tonumber(redis.call('ZSCORE', prefix .. 'heard', host) or nil)
local r = agent(host)
if last and last > tonumber(ARGV[3]) then return 0 end
local was = r and r.managed
if was then infer(host, r, tonumber(ARGV[4])) end
redis.call('ZREM', prefix .. 'heard', host) -- not of gaps: it may speak in an older epoch, and is asked once more
if r then redis.call('ZADD', prefix .. 'silent', last or ARGV[3], host) end
return was and 1 or 0
