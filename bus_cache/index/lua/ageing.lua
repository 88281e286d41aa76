-- Hosts at which the ageing sweep must look, each given to one consumer.
--
--   <prefix>ageing  ZSET    host -> oldest stamp of a change since the last ageing sweep
--   <prefix>adopt   STRING  ZSCAN cursor, while hosts of schema 1 are taken over, which had no ageing
--   <prefix>hosts   ZSET    host -> stamp in ms of its newest evidence
-- ARGV[2]  ms: hosts with nothing that is at least so old are left
-- ARGV[3]  ms: what the host's entry becomes until the sweep is done, so that others leave it; with a half, which
--          goes with the first change (see changed())
-- ARGV[4]  hosts, at the most
-- ARGV[5]  now in ms
-- Returns the hosts.
local adopt = redis.call('GET', prefix .. 'adopt')
if adopt then
  local page = redis.call('ZSCAN', prefix .. 'hosts', adopt, 'COUNT', 500)
  for i = 1, #page[2], 2 do redis.call('ZADD', prefix .. 'ageing', 'NX', ARGV[5], page[2][i]) end
  if page[1] == '0' then
    redis.call('DEL', prefix .. 'adopt')
  else
    redis.call('SET', prefix .. 'adopt', page[1])
  end
end
local hosts = redis.call('ZRANGEBYSCORE', prefix .. 'ageing', '-inf', ARGV[2], 'LIMIT', 0, ARGV[4])
for _, host in ipairs(hosts) do redis.call('ZADD', prefix .. 'ageing', ARGV[3] + 0.5, host) end
return hosts
