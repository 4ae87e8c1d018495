package controller

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/webclient"
)

const (
	// maxAnswer bounds one answer: a page of 100 apps with large environments is some MiB.
	maxAnswer = 32 << 20
	// maxRefusal bounds what is read of an answer that is not 2xx.
	maxRefusal = 64 << 10
	// renewals of the token in one request: with its refresh token, then with the password.
	renewals = 2
)

// request is one call of the API. Unless it is sent once, it must be one that may be carried out twice: it is sent again when its answer is lost.
type request struct {
	// what is done, for errors: "list apps".
	what   string
	method string
	// path with its query, from /v2 on.
	path string
	// body is sent as JSON; nil for none.
	body any
	// anonymous requests carry no token.
	anonymous bool
	// once lets a passing fault be the caller's, who finds out what came of it.
	once bool
}

// do makes the request, as often as it takes within the bounds of the configuration, and decodes the answer into answer (nil: not
// looked at).
func (c *Client) do(ctx context.Context, r request, answer any) error {
	target, err := c.base.Parse(r.path)
	if err != nil || target.Host != c.base.Host || target.Scheme != c.base.Scheme {
		return c.failure(KindAnswer, r.what, "an address outside of the controller", "")
	}
	var body []byte
	if r.body != nil {
		if body, err = json.Marshal(r.body); err != nil {
			return fmt.Errorf("cloud controller: %s: %w", r.what, err)
		}
	}
	limit, token := c.cfg.Attempts, ""
	if r.once {
		limit = 1
	}
	for renewed := 0; ; renewed++ {
		if !r.anonymous {
			if token, err = c.token(ctx, token, renewed == renewals); err != nil {
				return err
			}
		}
		var data []byte
		err := c.attempts(ctx, r.what, limit, func(ctx context.Context) (err error) {
			data, err = c.send(ctx, r, target.String(), token, body)
			return err
		})
		if e := (*Error)(nil); errors.As(err, &e) && e.Status == http.StatusUnauthorized && !r.anonymous && renewed < renewals {
			continue
		}
		if err != nil {
			return err
		}
		if answer == nil {
			return nil
		}
		if err := json.Unmarshal(data, answer); err != nil {
			// Without the parser's words: they may repeat what an app keeps in its environment.
			return c.failure(KindAnswer, r.what, "the answer is not the JSON of a cloud controller", "check controller.url")
		}
		return nil
	}
}

// send makes one attempt and returns the body of a 2xx answer.
func (c *Client) send(ctx context.Context, r request, target, token string, body []byte) ([]byte, error) {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	in, err := http.NewRequestWithContext(ctx, r.method, target, reader)
	if err != nil {
		return nil, c.failure(KindBadInput, r.what, c.clean(err.Error()), "")
	}
	in.Header.Set("Accept", "application/json")
	in.Header.Set("User-Agent", "katoflow")
	if body != nil {
		in.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		in.Header.Set("Authorization", "bearer "+token)
	}
	response, err := c.http.Do(in)
	if err != nil {
		return nil, c.unreached(r.what, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode < 200 || response.StatusCode > 299 {
		said, _ := io.ReadAll(io.LimitReader(response.Body, maxRefusal)) // what came of it is enough
		return nil, c.refused(r.what, response, said)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		e := c.unreached(r.what, err)
		e.Message += " (the answer was cut off)"
		return nil, e
	}
	if len(data) > maxAnswer {
		return nil, c.failure(KindAnswer, r.what, fmt.Sprintf("the answer is longer than %d MiB", maxAnswer>>20), "check controller.url")
	}
	return data, nil
}

// attempts makes at most limit attempts at one request, each with the configured time.
func (c *Client) attempts(ctx context.Context, what string, limit int, attempt func(ctx context.Context) error) error {
	for n := 1; ; n++ {
		limited, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
		err := attempt(limited)
		cancel()
		var e *Error
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("cloud controller %s: %s: %w", c.cfg.URL, what, context.Cause(ctx))
		case !errors.As(err, &e) || !e.passing:
			return err
		case n >= limit:
			return afterAttempts(e, n)
		}
		c.log.Warn("request to the cloud controller failed, trying again", zap.String("request", what), zap.Int("attempt", n), zap.String("error", e.Message))
		if err := webclient.Pause(ctx, n, c.cfg.MaxBackoff); err != nil {
			return fmt.Errorf("cloud controller %s: %s: %w", c.cfg.URL, what, err)
		}
	}
}

// afterAttempts says in e how many attempts there were.
func afterAttempts(e *Error, n int) *Error {
	if n > 1 {
		e.Message += fmt.Sprintf(" (after %d attempts)", n)
	}
	return e
}
