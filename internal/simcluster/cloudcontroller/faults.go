package cloudcontroller

import (
	"strings"
	"time"
)

type fault struct {
	path   string
	times  int
	status int // 0 resets the connection
	body   string
	cut    bool // after a part of the right answer
}

func (c *Controller) fault(f fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, &f)
}

// Fail answers the next requests whose path begins so with a status and a router's page, such as 502; times < 0 for all. "/" is every path. Before the path a
// method may stand, such as "PUT /v2/apps/": then only requests of this method are meant. Both hold for Answer, Reset and Cut, too.
func (c *Controller) Fail(path string, times, status int) {
	body := "<html><body><h1>error</h1></body></html>"
	if status == 404 {
		body = "404 Not Found: Requested route ('api.demo.example.com') does not exist.\n"
	}
	c.fault(fault{path: path, times: times, status: status, body: body})
}

// Answer answers the next requests whose path begins so with a status and a body of the caller's.
func (c *Controller) Answer(path string, times, status int, body string) {
	c.fault(fault{path: path, times: times, status: status, body: body})
}

// Reset resets the connection of the next requests whose path begins so.
func (c *Controller) Reset(path string, times int) { c.fault(fault{path: path, times: times}) }

// Cut resets the connection in the middle of the answer to the next requests whose path begins so. What they asked for is done.
func (c *Controller) Cut(path string, times int) { c.fault(fault{path: path, times: times, cut: true}) }

// Heal ends all faults but those of tokens and of apps.
func (c *Controller) Heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults, c.delay, c.afterPage, c.omitEndpoint = nil, 0, nil, false
}

// Delay makes every answer wait.
func (c *Controller) Delay(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.delay = d
}

// RevokeTokens makes every access token that was granted invalid, as a restart of the login does; refresh tokens too when refresh is set.
func (c *Controller) RevokeTokens(refresh bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.access)
	if refresh {
		clear(c.refresh)
	}
}

// AfterPage calls f, without a lock, after each page of a list was answered, with the list's path such as "/v2/apps".
func (c *Controller) AfterPage(f func(path string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.afterPage = f
}

// OmitTokenEndpoint leaves token_endpoint out of /v2/info while on, as older controllers do.
func (c *Controller) OmitTokenEndpoint(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.omitEndpoint = on
}

// take returns the fault that the request meets, or nil; the caller holds mu.
func (c *Controller) take(method, path string) *fault {
	for _, f := range c.faults {
		of, begins, given := strings.Cut(f.path, " ")
		if !given {
			of, begins = method, f.path
		}
		if f.times != 0 && of == method && strings.HasPrefix(path, begins) {
			if f.times > 0 {
				f.times--
			}
			return f
		}
	}
	return nil
}
