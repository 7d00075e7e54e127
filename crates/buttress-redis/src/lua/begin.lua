-- ARGV: fingerprint, token, lease, ttl.
local run = 1
if record then
  if record.fingerprint ~= ARGV[1] then
    return {'mismatch'}
  elseif record.answer then
    return {'done', record.answer}
  elseif record.token == ARGV[2] then
    run = record.run
  elseif now >= record.lease_until then
    run = math.min(record.run + 1, 4294967295)
  else
    return {'running'}
  end
end
local begun_at = record and record.begun_at or now
local lease_until = now + tonumber(ARGV[3])
redis.call('HSET', KEYS[1], 'version', '1', 'fingerprint', ARGV[1], 'token', ARGV[2], 'run', plain(run),
  'begun_at', plain(begun_at), 'lease_until', plain(lease_until))
expire_at(lease_until + tonumber(ARGV[4]))
return {'started', run}
