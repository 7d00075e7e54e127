-- The beginning of every script: the record at KEYS[1], the only key that scripts touch, and the clock of this server.
-- Times are in microseconds.

if not redis.REDIS_VERSION_NUM then
  -- Older servers do not know the flags of the scripts that complete a record when the memory is full.
  return redis.error_reply('ERR the idempotency store needs Redis 7.0 or later')
end

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

-- `tostring` rounds to 14 digits.
local function plain(number)
  return string.format('%.0f', number)
end

-- Deletes an expired record at once: PEXPIREAT is up to 2 ms late, because it counts milliseconds.
local function expire_at(time)
  if time <= now then
    redis.call('DEL', KEYS[1])
  else
    redis.call('PEXPIREAT', KEYS[1], plain(math.ceil(time / 1000)))
  end
end

local function digits(field)
  return field and #field <= 16 and string.match(field, '^%d+$') and tonumber(field)
end

-- The record, or nil if there is none, or nil and the reason why it cannot be read.
local function read()
  local found = redis.call('HMGET', KEYS[1], 'version', 'fingerprint', 'token', 'run', 'lease_until', 'answer', 'begun_at')
  local version = found[1]
  if not version then
    if redis.call('EXISTS', KEYS[1]) == 0 then
      return nil
    end
    return nil, 'it has no version'
  end
  if version ~= '1' then
    return nil, 'its version is ' .. string.sub(version, 1, 20) .. ', but this program reads only version 1; upgrade the program'
  end
  local record = {
    fingerprint = found[2],
    token = found[3],
    run = digits(found[4]),
    lease_until = digits(found[5]),
    answer = found[6],
    -- Records of the first release have none.
    begun_at = digits(found[7]),
  }
  if not record.fingerprint or #record.fingerprint ~= 32 then
    return nil, 'its fingerprint is not 32 bytes'
  elseif not record.token or #record.token ~= 16 then
    return nil, 'its token is not 16 bytes'
  elseif not record.run or record.run < 1 or record.run > 4294967295 then
    return nil, 'its run is not a number from 1 to 4294967295'
  elseif found[5] and record.answer then
    return nil, 'it has both a lease and a response'
  elseif not record.answer and not record.lease_until then
    return nil, 'it has neither a lease nor a response'
  end
  return record
end

local record, unreadable = read()
if unreadable then
  return {'unreadable', unreadable}
end
