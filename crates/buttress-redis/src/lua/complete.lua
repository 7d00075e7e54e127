-- ARGV: token, response, ttl.
if not record or record.token ~= ARGV[1] then
  return {'lost'}
elseif record.answer then
  return {'already', record.answer}
end
redis.call('HSET', KEYS[1], 'answer', ARGV[2])
redis.call('HDEL', KEYS[1], 'lease_until')
expire_at(now + tonumber(ARGV[3]))
return {'taken'}
