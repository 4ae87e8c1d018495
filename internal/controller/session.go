package controller

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/oauth2"
)

// session is the login that all requests of a client share.
type session struct {
	// turn is held while the login is looked at or renewed.
	turn chan struct{}
	// address of the token endpoint that granted one, "" before.
	address string
	token   *oauth2.Token
}

// token returns an access token that has not expired and is not the refused one. A new one is asked for with the refresh token, where
// there is one and withPassword is not set, else with user and password.
func (c *Client) token(ctx context.Context, refused string, withPassword bool) (string, error) {
	const what = "log in"
	select {
	case c.session.turn <- struct{}{}:
		defer func() { <-c.session.turn }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	s := &c.session
	if s.token.Valid() && s.token.AccessToken != refused {
		return s.token.AccessToken, nil
	}
	addresses := []string{s.address}
	if s.address == "" {
		var err error
		if addresses, err = c.loginAddresses(ctx); err != nil {
			return "", err
		}
	}
	if s.token != nil && s.token.RefreshToken != "" && !withPassword {
		err := c.grant(ctx, what, addresses, func(ctx context.Context, login oauth2.Config) (*oauth2.Token, error) {
			return login.TokenSource(ctx, &oauth2.Token{RefreshToken: s.token.RefreshToken}).Token()
		})
		if err == nil {
			return s.token.AccessToken, nil
		}
		if !IsKind(err, KindUnauthorized) {
			return "", err
		}
	}
	err := c.grant(ctx, what, addresses, func(ctx context.Context, login oauth2.Config) (*oauth2.Token, error) {
		return login.PasswordCredentialsToken(ctx, c.cfg.User, c.cfg.Password)
	})
	if err != nil {
		s.address = "" // another try asks again where to log in
		return "", err
	}
	return s.token.AccessToken, nil
}

// grant asks each address for a token until one knows how to grant them.
func (c *Client) grant(ctx context.Context, what string, addresses []string, ask func(ctx context.Context, login oauth2.Config) (*oauth2.Token, error)) error {
	var last error
	for _, address := range addresses {
		// The client that every Cloud Foundry and Stackato command line is: "cf" without a secret.
		login := oauth2.Config{ClientID: "cf", Endpoint: oauth2.Endpoint{TokenURL: address + "/oauth/token", AuthStyle: oauth2.AuthStyleInHeader}}
		last = c.attempts(ctx, what, c.cfg.Attempts, func(ctx context.Context) error {
			token, err := ask(context.WithValue(ctx, oauth2.HTTPClient, c.http), login)
			if err != nil {
				return c.loginRefused(what, err)
			}
			c.session.token, c.session.address = token, address
			return nil
		})
		var e *Error
		if !errors.As(last, &e) || e.Status != http.StatusNotFound {
			return last
		}
	}
	return last
}

// loginAddresses returns where tokens are granted, in the order in which to try: the controller's token_endpoint, then its
// authorization_endpoint, where Stackato's own client asks.
func (c *Client) loginAddresses(ctx context.Context) ([]string, error) {
	const what = "find out where to log in"
	info, err := c.Info(ctx)
	if err != nil {
		return nil, err
	}
	var addresses []string
	for _, address := range []string{info.TokenEndpoint, info.AuthorizationEndpoint} {
		address = strings.TrimSuffix(address, "/")
		if address == "" || len(addresses) > 0 && addresses[0] == address {
			continue
		}
		u, err := url.Parse(address)
		switch {
		case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
			return nil, c.failure(KindAnswer, what, "/v2/info names a login address that is not a URL", "check the cluster's aok and login settings")
		case u.Scheme == "http" && c.base.Scheme == "https":
			return nil, c.failure(KindAnswer, what, "/v2/info names "+c.clean(address)+", where the password would not be protected", "set the cluster's login address to https")
		}
		addresses = append(addresses, address)
	}
	if len(addresses) == 0 {
		return nil, c.failure(KindAnswer, what, "/v2/info names neither token_endpoint nor authorization_endpoint", "check controller.url")
	}
	return addresses, nil
}
