-- ARGV: token, lease, ttl.
if not record or record.token ~= ARGV[1] or record.answer then
  return {'lost'}
end
local lease_until = now + tonumber(ARGV[2])
redis.call('HSET', KEYS[1], 'lease_until', plain(lease_until))
expire_at(lease_until + tonumber(ARGV[3]))
return {'taken'}
