package connection

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func server(t *testing.T, handler http.HandlerFunc) (string, *atomic.Int64) {
	t.Helper()
	var opened atomic.Int64
	s := httptest.NewUnstartedServer(handler)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s.URL, &opened
}

func transport(t *testing.T) (*Transport, *http.Client) {
	t.Helper()
	tr, ok := New(Config{})
	require.True(t, ok)
	t.Cleanup(tr.Close)
	return tr, &http.Client{Transport: tr}
}

func TestLine_AfterWarm_ItsRequestOpensNoConnection(t *testing.T) {
	address, opened := server(t, func(http.ResponseWriter, *http.Request) {})
	tr, client := transport(t)
	ctx := context.Background()
	var lines []*Line
	for range 20 {
		l := tr.Line()
		defer l.Close()
		require.NoError(t, l.Warm(ctx, time.Hour, Get(client, address)))
		lines = append(lines, l)
	}
	before := opened.Load()
	require.GreaterOrEqual(t, before, int64(20), "each line has a connection of its own, although the lines were made one after another")
	results := make(chan error, len(lines))
	for _, l := range lines {
		go func() { results <- Get(client, address)(l.On(ctx)) }()
	}
	for range lines {
		require.NoError(t, <-results)
	}
	require.Equal(t, before, opened.Load())
}

func TestLine_Warm_AsksAgainUntilItIsClosed(t *testing.T) {
	address, opened := server(t, func(http.ResponseWriter, *http.Request) {})
	tr, client := transport(t)
	l := tr.Line()
	var asked atomic.Int64
	ask := func(ctx context.Context) error {
		asked.Add(1)
		return Get(client, address)(ctx)
	}
	require.NoError(t, l.Warm(context.Background(), 5*time.Millisecond, ask))
	require.Eventually(t, func() bool { return asked.Load() >= 4 }, time.Minute, time.Millisecond)
	l.Rest(context.Background())
	before := opened.Load()
	require.NoError(t, Get(client, address)(l.On(context.Background())))
	require.Equal(t, before, opened.Load(), "its connection is there")
	l.Close()
	after := asked.Load() // Close has waited for the one under way
	require.Never(t, func() bool { return asked.Load() > after }, 50*time.Millisecond, 5*time.Millisecond)
}

func TestLine_RestDuringAnAsk_LeavesItsConnectionToTheNextRequest(t *testing.T) {
	asking, release := make(chan struct{}, 1), make(chan struct{})
	var asked atomic.Int64
	address, opened := server(t, func(http.ResponseWriter, *http.Request) {
		if asked.Add(1) == 2 {
			asking <- struct{}{}
			<-release
		}
	})
	tr, client := transport(t)
	l := tr.Line()
	defer l.Close()
	free := sync.OnceFunc(func() { close(release) })
	defer free()
	require.NoError(t, l.Warm(context.Background(), time.Millisecond, Get(client, address)))
	select {
	case <-asking:
	case <-time.After(time.Minute):
		t.Fatal("it is not asked again")
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	l.Rest(ended) // waits no longer than its context
	rested := make(chan struct{})
	go func() {
		l.Rest(context.Background())
		close(rested)
	}()
	free()
	select {
	case <-rested:
	case <-time.After(time.Minute):
		t.Fatal("it waits for an ask that has ended")
	}
	before := opened.Load()
	require.NoError(t, Get(client, address)(l.On(context.Background())))
	require.Equal(t, before, opened.Load())
}

func TestUnsent_RefusedAndLost_AreToldApart(t *testing.T) {
	address, _ := server(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	})
	_, client := transport(t)
	_, err := client.Post(address, "", nil)
	require.Error(t, err)
	require.False(t, Unsent(err), "the server had the request: %v", err)

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	_, err = client.Post("http://"+listener.Addr().String(), "", nil)
	require.Error(t, err)
	require.True(t, Unsent(err), "nobody listens: %v", err)
}

func TestNew_BadCA_IsRefused(t *testing.T) {
	_, ok := New(Config{CA: []byte("none")})
	require.False(t, ok)
}
