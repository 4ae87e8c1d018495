package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/operation"
)

// browser starts headless Chromium with a profile of its own; both are gone at the test's end. The test is skipped where there is none, unless KATOFLOW_BROWSER says
// that there must be one.
func browser(t *testing.T) context.Context {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" && os.Getenv("KATOFLOW_BROWSER") != "" {
		t.Fatal("Chromium is not installed")
	}
	if path == "" {
		t.Skip("the Web UI is not opened: Chromium is not installed (Debian: apt-get install chromium)")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	ctx, cancelAllocator := chromedp.NewExecAllocator(ctx, chromedp.ExecPath(path), chromedp.UserDataDir(filepath.Join(t.TempDir(), "profile")),
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.WindowSize(1400, 1300),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("hide-scrollbars", true))
	ctx, cancelTab := chromedp.NewContext(ctx)
	t.Cleanup(func() { // the browser has ended before its folder is removed
		_ = chromedp.Cancel(ctx)
		cancelTab()
		cancelAllocator()
		cancel()
	})
	require.NoError(t, chromedp.Do(ctx))
	return ctx
}

// page is the Web UI's address of the operation's current run, with a tab.
func (o *op) page(tab string) string {
	return "http://" + o.Temporal.UI + "/namespaces/default/workflows/" + url.PathEscape(o.workflow) + "/" + o.describe(o.workflow).Execution.RunId + "/" + tab
}

// script evaluates JavaScript on the page until it gives something other than null or false; an error of it is not the end, because the page may still be
// loading. shown finds what is visible, because the page has its menus twice, for wide and for narrow windows.
func script[T any](t *testing.T, ctx context.Context, what, js string) (out T) {
	t.Helper()
	const shown = `var shown = (q, text = '') => [...document.querySelectorAll(q)].find(e => e.getClientRects().length > 0 && e.innerText.trim().startsWith(text)); `
	var last error
	err := harness.WaitFor(30*time.Second, what, func() (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		var v *T
		v, last = chromedp.Run(ctx, chromedp.Evaluate[*T](shown+js))
		if last != nil || v == nil {
			return false, nil
		}
		out = *v
		return true, nil
	})
	require.NoError(t, err, "last: %v", last)
	return out
}

// click something as soon as it is there.
func click(t *testing.T, ctx context.Context, selector, text string) {
	t.Helper()
	script[bool](t, ctx, selector, "var e = shown('"+selector+"', '"+text+"'); e ? (e.click(), true) : null")
}

// details is the document in which the Web UI renders an operation's current details.
const details = `var details = document.querySelector('#user-metadata-current-details')?.contentDocument; `

// rows of the progress table of so many nodes, cell by cell, keyed by the node.
func rows(t *testing.T, ctx context.Context, nodes int) map[string][]string {
	t.Helper()
	cells := script[[][]string](t, ctx, "the progress table", details+fmt.Sprintf(
		`var cells = [...(details?.querySelectorAll('table tr') ?? [])].map(r => [...r.cells].map(c => c.innerText)); cells.length === %d ? cells : null`, nodes+1))
	require.Equal(t, []string{"node", "roles", "status", "step", "try", "remark"}, cells[0])
	out := map[string][]string{}
	for _, r := range cells[1:] {
		out[r[0]] = r
	}
	return out
}

// screenshot keeps a picture of the page where KATOFLOW_SCREENSHOTS names a folder.
func screenshot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	dir := os.Getenv("KATOFLOW_SCREENSHOTS")
	if dir == "" {
		return
	}
	picture, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644))
}

func TestWebUI_RunningOperation_ShowsTheProgressTable(t *testing.T) {
	onlySimulated(t, "what the Web UI shows does not depend on the nodes")
	t.Parallel()
	ctx := browser(t)
	s := newSite(t, nil, nil, func(c *config) { c.name = "prod" }) // it may be seen in a picture
	release := s.cluster.Node("dea-2").HoldAptLock(0)
	s.worker("")
	o := s.start()
	o.waits("dea-2", "waiting for apt")

	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(o.page("user-metadata"))))
	table := rows(t, ctx, 5)
	for node, status := range map[string]string{"dea-1": operation.NodeDone, "dea-2": operation.NodeRunning, "core": operation.NodePending, "mysql-1": operation.NodePending, "filesystem-1": operation.NodePending} {
		require.Equal(t, status, table[node][2], "%v", table)
	}
	require.Contains(t, table["dea-1"][5], "reboot proved")
	require.Equal(t, "base, dea", table["dea-2"][1])
	screenshot(t, ctx, "operation-running")

	release()
	o.done(60 * time.Second)
}

func TestWebUI_ParkedOperation_ShowsTheDecisionAndTakesItsAnswer(t *testing.T) {
	onlySimulated(t, "what the Web UI shows does not depend on the nodes")
	t.Parallel()
	ctx := browser(t)
	s := newSite(t, nil, nil, plain("a", "b"))
	const hostile = "E: <img src=x onerror=alert(1)> | `x` *y* [z](http://127.0.0.1)"
	s.cluster.Node("b").FailCommand("unattended-upgrades", 1, 100, hostile)
	s.worker("")
	o := s.start()
	q := o.question(30 * time.Second)

	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(o.page("user-metadata"))))
	table := rows(t, ctx, 2)
	require.Equal(t, operation.NodeDone, table["a"][2])
	require.Equal(t, operation.NodeWaiting, table["b"][2])
	require.Contains(t, html.UnescapeString(table["b"][5]), hostile, "what a node says is text") // this Web UI shows "<" as "&lt;"
	require.Zero(t, script[int](t, ctx, "pictures and links", details+
		"[...details.querySelectorAll('img, script, a')].filter(e => e.tagName !== 'A' || e.innerText !== e.getAttribute('href')).length"), "nor a link that hides its address")
	paste := script[string](t, ctx, "the JSON to paste", details+"[...details.querySelectorAll('pre')].map(p => p.innerText.trim()).find(t => t.startsWith('{')) ?? null")
	var answer operation.DecideRequest
	require.NoError(t, json.Unmarshal([]byte(paste), &answer))
	require.Equal(t, q.Key(), answer.Key())
	require.Equal(t, operation.Retry, answer.Decision)
	screenshot(t, ctx, "operation-parked")

	// More Actions, Send an Update, decide, with what was pasted.
	click(t, ctx, "[aria-controls=workflow-actions]", "More Actions")
	click(t, ctx, "[data-testid=update-button]", "")
	click(t, ctx, "[data-testid=update-select-button]", "")
	click(t, ctx, "[data-testid=update-confirmation-modal] [role=option]", "decide")
	argument, err := json.Marshal(paste)
	require.NoError(t, err)
	script[bool](t, ctx, "the field for the data", "var field = shown('[data-testid=update-confirmation-modal] .cm-content'); "+
		"field ? (field.focus(), document.execCommand('insertText', false, "+string(argument)+") && field.innerText.includes('decision') ? true : null) : null")
	screenshot(t, ctx, "operation-answer")
	click(t, ctx, "[data-testid=update-confirmation-modal] [data-testid=confirm-modal-button]", "")

	r := o.done(60 * time.Second)
	require.Len(t, r.Answers, 1)
	require.Equal(t, operation.Retry, r.Answers[0].Decision)
	s.upgraded(1, "a", "b")
	require.Equal(t, 2, s.ran("b", "unattended-upgrades"))
	require.Empty(t, s.repeated())
}
