-- Can the keyspace be written? A server without memory, a replica, or one that can't save answers
-- reads and refuses this.
--
--   <prefix>schema  STRING  version of the keys
redis.call('SET', KEYS[1], ARGV[1])
return redis.status_reply('OK')
