-- What was wanted is done, unless it was asked for anew since.
--
--   <prefix>wanted:<name>  STRING  why it is wanted
-- ARGV[2]  name
-- ARGV[3]  what the key held when the work began
local key = prefix .. 'wanted:' .. ARGV[2]
if redis.call('GET', key) == ARGV[3] then redis.call('DEL', key) end
return redis.status_reply('OK')
