-- ARGV: token, run, '1' if it was done, stopped_for, new token, 'release' or 'record', response, ttl.
if not record then
  return {'missing'}
elseif record.answer and record.token == ARGV[5] then
  -- The same request again, whose first reply was lost.
  return {'resolved'}
elseif record.token ~= ARGV[1] or record.run ~= tonumber(ARGV[2]) or (record.answer and '1' or '0') ~= ARGV[3] then
  return {'changed'}
elseif not record.answer and now < record.lease_until + tonumber(ARGV[4]) then
  return {'running'}
end
if ARGV[6] == 'release' then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], 'token', ARGV[5], 'answer', ARGV[7])
  redis.call('HDEL', KEYS[1], 'lease_until')
  expire_at(now + tonumber(ARGV[8]))
end
return {'resolved'}
