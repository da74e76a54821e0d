-- wrk: POST the file BODY as TYPE to each of the file PATHS in turn, with the extra HEADERS ("Name: value", one a line);
-- print what was measured as JSON.
local function content(name)
  local file = assert(io.open(os.getenv(name), "rb"))
  local all = file:read("*a")
  file:close()
  return all
end

wrk.method = "POST"
wrk.body = content("BODY")
wrk.headers["Content-Type"] = os.getenv("TYPE")
for name, value in string.gmatch(os.getenv("HEADERS") or "", "([^:\n]+): ([^\n]+)") do
  wrk.headers[name] = value
end

local paths, requests, turn = {}, {}, 0
for path in string.gmatch(content("PATHS"), "[^\n]+") do
  paths[#paths + 1] = path
end
wrk.path = paths[1]

if #paths > 1 then  -- else wrk makes the one request once
  function init()
    for place, path in ipairs(paths) do
      requests[place] = wrk.format(nil, path)
    end
  end

  function request()
    turn = turn % #requests + 1
    return requests[turn]
  end
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('\n@{"requests": %d, "us": %d, "p50_us": %d, "p99_us": %d, "failed": %d, "refused": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), failed, errors.status))
end
