-- An agent has been silent for long: its host is inferred from now on.
--
--   <prefix>silent, agents, agent:<host>, host:<host>, hosts, image:<hex>: see names.Keys
-- ARGV[2]  host
-- ARGV[3]  ms by the consumers' clocks: nothing was heard since
-- ARGV[4]  source of what the agent held
-- Returns 1 where the host was agent-managed, else 0.
local host = ARGV[2]
local r = agent(host)
if r and r.heard > tonumber(ARGV[3]) then return 0 end
local was = r and r.managed
if was then infer(host, r, tonumber(ARGV[4])) end
-- its gap stays: it may speak in an older epoch, and is asked once more
if r then redis.call('ZADD', prefix .. 'silent', r.heard, host) end
return was and 1 or 0
