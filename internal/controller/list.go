package controller

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

const (
	// maxItems bounds a list.
	maxItems = 500_000
	// passes over a list that changes while it is read.
	passes = 3

	between = "check what stands between worker and controller"
)

// resource is an entry of a list (kato.md §6).
type resource[E any] struct {
	Metadata struct {
		GUID string `json:"guid"`
	} `json:"metadata"`
	Entity E `json:"entity"`
}

type page[E any] struct {
	TotalResults int           `json:"total_results"`
	NextURL      string        `json:"next_url"`
	Resources    []resource[E] `json:"resources"`
}

// list reads all pages of a list: of what ("apps", also its path below /v2), each entry once, in the controller's order.
func list[E any](ctx context.Context, c *Client, what string) ([]resource[E], error) {
	for range passes {
		all, changed, err := listOnce[E](ctx, c, what)
		if err != nil {
			return nil, err
		}
		if !changed {
			return all, nil
		}
	}
	e := c.failure(KindChanged, "list "+what, fmt.Sprintf("the list changed each of the %d times it was read", passes), "switch on maintenance mode, or try later")
	e.passing = true
	return nil, e
}

// listOnce reads a list and says whether it changed meanwhile, so that an entry may be missing.
func listOnce[E any](ctx context.Context, c *Client, what string) (all []resource[E], changed bool, err error) {
	next := "/v2/" + what + "?results-per-page=100" // the most that is possible
	seen := make(map[string]bool)
	total := -1
	for {
		var p page[E]
		if err := c.do(ctx, request{what: "list " + what, method: http.MethodGet, path: next}, &p); err != nil {
			return nil, false, err
		}
		if total >= 0 && p.TotalResults < total {
			changed = true // what was on a page to come may have moved to one that was read
		}
		total = p.TotalResults
		before := len(all)
		for _, r := range p.Resources {
			if r.Metadata.GUID == "" {
				return nil, false, c.failure(KindAnswer, "list "+what, "an entry without a guid", "check controller.url")
			}
			if !seen[r.Metadata.GUID] {
				seen[r.Metadata.GUID] = true
				all = append(all, r)
			}
		}
		switch {
		case len(all) > maxItems:
			return nil, false, c.failure(KindAnswer, "list "+what, fmt.Sprintf("more than %d entries", maxItems), between)
		case p.NextURL == "":
			return all, changed || len(all) != total, nil
		case len(all) == before:
			return nil, false, c.failure(KindAnswer, "list "+what, "a page without a new entry that is not the last: the pages go round in a circle", between)
		}
		if next, err = c.nextPage(p.NextURL); err != nil {
			return nil, false, c.failure(KindAnswer, "list "+what, "the next page is not at an address of the controller", between)
		}
	}
}

// nextPage returns path and query of a next_url, which must be of this controller: the token goes there.
func (c *Client) nextPage(next string) (string, error) {
	u, err := url.Parse(next)
	if err != nil {
		return "", err
	}
	if u.Host != "" && (u.Host != c.base.Host || u.Scheme != c.base.Scheme) || !strings.HasPrefix(u.Path, "/v2/") {
		return "", fmt.Errorf("not an address of the controller")
	}
	return u.RequestURI(), nil
}
