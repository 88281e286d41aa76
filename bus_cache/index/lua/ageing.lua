-- Hosts at which the ageing sweep must look, each given to one consumer.
--
--   <prefix>ageing  ZSET  host -> oldest stamp of a change since the last ageing sweep
-- ARGV[2]  ms: hosts with nothing that is at least so old are left
-- ARGV[3]  ms: what the host's entry becomes until the sweep is done, so that others leave it
-- ARGV[4]  hosts, at the most
-- Returns the hosts.
local hosts = redis.call('ZRANGEBYSCORE', prefix .. 'ageing', '-inf', ARGV[2], 'LIMIT', 0, ARGV[4])
for _, host in ipairs(hosts) do redis.call('ZADD', prefix .. 'ageing', ARGV[3], host) end
return hosts
