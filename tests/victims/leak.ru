require 'fiddle'

# 64 KiB of which no garbage collector knows.
def remember
  Fiddle.malloc(65_536)
end

run lambda { |env|
  remember if env['PATH_INFO'] == '/leak'
  [200, { 'Content-Type' => 'text/plain' }, [Process.pid.to_s]]
}
