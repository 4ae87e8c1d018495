package archive

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/webclient"
)

// Kind says what sort of failure an *Error is. The values are stable.
type Kind string

const (
	// KindBadInput: what was asked for cannot be done by anybody; the message says why.
	KindBadInput Kind = "BadInput"
	// KindNoBucket: the bucket does not exist.
	KindNoBucket Kind = "NoBucket"
	// KindNotFound: there is no such archive or object.
	KindNotFound Kind = "NotFound"
	// KindNoUpload: the multipart upload was completed or aborted.
	KindNoUpload Kind = "NoUpload"
	// KindAccessDenied: the credentials are valid but may not do this.
	KindAccessDenied Kind = "AccessDenied"
	// KindCredentials: the credentials are unknown, wrong or expired, or the clocks differ too much.
	KindCredentials Kind = "Credentials"
	// KindWrongRegion: the bucket is in another region.
	KindWrongRegion Kind = "WrongRegion"
	// KindUnreachable: no answer: name, route, port, or a transfer in which nothing moved.
	KindUnreachable Kind = "Unreachable"
	// KindCertificate: the endpoint's certificate is not trusted.
	KindCertificate Kind = "Certificate"
	// KindFull: no space or quota left.
	KindFull Kind = "Full"
	// KindBusy: the service asked to slow down, through all attempts.
	KindBusy Kind = "Busy"
	// KindServer: the service failed, through all attempts.
	KindServer Kind = "Server"
	// KindUnsupported: the service lacks something that is needed.
	KindUnsupported Kind = "Unsupported"
	// KindConflict: something else is there under this name, or changed meanwhile.
	KindConflict Kind = "Conflict"
	// KindSource: the source could not be read.
	KindSource Kind = "Source"
	// KindSourceChanged: the source grew, shrank or has other content than at the begin.
	KindSourceChanged Kind = "SourceChanged"
	// KindIncomplete: the archive or upload is not complete.
	KindIncomplete Kind = "Incomplete"
	// KindLocked: object lock forbids the deletion; the message has the date.
	KindLocked Kind = "Locked"
	// KindCorrupt: what was read is not what was written.
	KindCorrupt Kind = "Corrupt"
	// KindDecrypt: none of the identities can decrypt the archive.
	KindDecrypt Kind = "Decrypt"
)

// Error is a failure of this package: one line that says what failed and what to do. It has no secret in it: the queries of URLs
// and the store's credentials are taken out, also of the cause's text.
type Error struct {
	Kind    Kind
	Message string
	Err     error
	// passing says that the same may go well at another time.
	passing bool
}

// Error is the message, with the cause if there is one.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause, nil when there is none.
func (e *Error) Unwrap() error { return e.Err }

// Retryable says whether the same may go well later without anybody changing anything.
func (e *Error) Retryable() bool { return e.passing }

// KindOf returns the kind of the first *Error in err's chain, "" when there is none. An error that only says that the caller's
// context ended has no kind.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

// IsKind says whether the first *Error in err's chain is of kind k.
func IsKind(err error, k Kind) bool { return err != nil && k != "" && KindOf(err) == k }

func failure(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// Corrupt is an error of KindCorrupt, for objects whose form this package does not know.
func Corrupt(format string, args ...any) error { return failure(KindCorrupt, format, args...) }

func badInput(format string, args ...any) *Error { return failure(KindBadInput, format, args...) }

// clean makes text that came from a server or the network safe to show, without the store's own credentials.
func (s *Store) clean(text string) string {
	return webclient.Clean(text, s.cfg.SecretKey, s.cfg.SessionToken, s.cfg.AccessKey)
}

// errStalled is the cause of a context that ended because no byte moved.
var errStalled = errors.New("no byte moved")

// sourceFailure is an error of the source inside a request's body.
type sourceFailure struct{ err error }

func (f *sourceFailure) Error() string { return f.err.Error() }
func (f *sourceFailure) Unwrap() error { return f.err }

// failed returns the error of an attempt at a request as an *Error; the context's own when that has ended.
func (s *Store) failed(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil && !errors.Is(context.Cause(ctx), errStalled) {
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	var source *sourceFailure
	if errors.As(err, &source) {
		var e *Error
		if errors.As(source.err, &e) {
			return e
		}
		return &Error{Kind: KindSource, passing: true, Err: source.err, Message: fmt.Sprintf("%s: read the source: %s", what, s.clean(source.err.Error()))}
	}
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	kind, passing, text, advice := s.classify(ctx, err)
	message := fmt.Sprintf("s3 bucket %s: %s: %s", s.cfg.Bucket, what, text)
	if advice != "" {
		message += ": " + advice
	}
	return &Error{Kind: kind, Message: message, passing: passing, Err: webclient.Hide(err, text)}
}

func (s *Store) classify(ctx context.Context, err error) (kind Kind, passing bool, text, advice string) {
	status := 0
	var response *smithyhttp.ResponseError
	if errors.As(err, &response) && response.HTTPResponse() != nil {
		status = response.HTTPStatusCode()
	}
	code := ""
	var api smithy.APIError
	if errors.As(err, &api) {
		code = api.ErrorCode()
		if message := api.ErrorMessage(); message != "" && message != code {
			text = s.clean(fmt.Sprintf("%s (%s, HTTP %d)", strings.TrimSuffix(strings.TrimSpace(message), "."), code, status))
		} else {
			text = s.clean(fmt.Sprintf("%s (HTTP %d)", code, status))
		}
	}
	switch code {
	case "NoSuchBucket":
		return KindNoBucket, false, text, "create the bucket or correct its name"
	case "NoSuchUpload":
		return KindNoUpload, false, text, ""
	case "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "TemporaryRedirect", "MovedPermanently":
		advice = "set the bucket's own region"
		if response != nil && response.HTTPResponse() != nil {
			if region := response.HTTPResponse().Header.Get("X-Amz-Bucket-Region"); region != "" {
				advice = "set region to " + s.clean(region)
			}
		}
		return KindWrongRegion, false, text, advice
	case "InvalidAccessKeyId", "XAdminUserNotFound", "SignatureDoesNotMatch", "InvalidToken", "InvalidSecurity", "UnrecognizedClientException":
		return KindCredentials, false, text, "check access key and secret key"
	case "ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException", "RequestExpired":
		return KindCredentials, false, text, "the credentials have expired, renew them"
	case "RequestTimeTooSkewed":
		return KindCredentials, false, text, "set the clock of the worker or of the service"
	case "QuotaExceeded", "InsufficientStorage", "InsufficientCapacity", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "EntityTooLargeForQuota":
		return KindFull, false, text, "free space in the bucket or raise its quota"
	case "SlowDown", "TooManyRequests", "RequestLimitExceeded", "Throttling", "ThrottlingException", "ServiceUnavailable", "SlowDownRead", "SlowDownWrite":
		return KindBusy, true, text, "the service is overloaded, try later"
	case "BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "InvalidDigest":
		return KindCorrupt, true, text, "the data was changed on its way"
	case "RequestTimeout", "InternalError", "InternalServerError", "IncompleteBody", "OperationAborted", "BadGateway", "GatewayTimeout":
		return KindServer, true, text, "the service fails, see its log"
	case "PreconditionFailed", "ConditionalRequestConflict", "InvalidPart", "InvalidPartOrder":
		return KindConflict, code == "ConditionalRequestConflict", text, "something else writes here at the same time"
	case "MissingObjectLockConfiguration", "ObjectLockConfigurationNotFoundError":
		return KindUnsupported, false, text, "switch on object lock when the bucket is made, or leave it out of the configuration"
	case "NotImplemented", "InvalidStorageClass", "KMS.NotFoundException",
		"KMS.DisabledException", "InvalidBucketState":
		return KindUnsupported, false, text, "the bucket or the service lacks what the configuration asks for"
	}
	if code == "AccessDenied" && strings.Contains(strings.ToLower(text), "object lock") {
		return KindLocked, false, text, "wait until the lock ends"
	}
	if code == "InvalidRequest" && strings.Contains(text, "ObjectLock") {
		return KindUnsupported, false, text, "switch on object lock when the bucket is made, or leave it out of the configuration"
	}
	switch {
	case status == 301 || status == 307 || status == 308:
		return KindWrongRegion, false, orStatus(text, status), "set the bucket's own region or endpoint"
	case status == 403 || status == 401:
		return KindAccessDenied, false, orStatus(text, status), "grant the right to it in the bucket's policy, or check the credentials"
	case status == 404:
		return KindNotFound, false, orStatus(text, status), ""
	case status == 412:
		return KindConflict, false, orStatus(text, status), "something else writes here at the same time"
	case status == 507:
		return KindFull, false, orStatus(text, status), "free space in the bucket or raise its quota"
	case status == 429 || status == 503:
		return KindBusy, true, orStatus(text, status), "the service is overloaded, try later"
	case status == 501:
		return KindUnsupported, false, orStatus(text, status), "the service lacks what is asked for"
	case status >= 500 || status == 408:
		return KindServer, true, orStatus(text, status), "the service fails, see its log"
	case status == 400 && (code == "" || code == "BadRequest"):
		// The answer to HEAD has no body; Amazon answers so to an expired token.
		return KindCredentials, false, orStatus(text, status), "the credentials may have expired, or are of another region"
	case status >= 400:
		return KindBadInput, false, orStatus(text, status), "the service refuses the request"
	}
	if errors.Is(context.Cause(ctx), errStalled) {
		return KindUnreachable, true, "no byte moved for " + s.cfg.StallTimeout.String(), "check the network to the endpoint, and to the source"
	}
	trouble, cause := webclient.TroubleOf(err)
	text = s.clean(cause.Error())
	switch {
	case trouble == webclient.UnknownAuthority, trouble == webclient.BadCertificate:
		return KindCertificate, false, text, "give the endpoint's CA, or correct its name"
	case trouble == webclient.NoSuchName:
		return KindUnreachable, true, text, "correct the endpoint, the region or the worker's name service"
	case status >= 200:
		return KindServer, true, "the answer was cut off: " + text, "check the network to the endpoint"
	}
	return KindUnreachable, true, text, "check the endpoint and the network to it"
}

func orStatus(text string, status int) string {
	if text == "" {
		return fmt.Sprintf("HTTP %d", status)
	}
	return text
}

// do makes the attempts at one request. Each has a context that ends when request calls no beat for so long as a stall may take.
func (s *Store) do(ctx context.Context, what string, stall time.Duration, request func(ctx context.Context, beat func()) error) error {
	for attempt := 1; ; attempt++ {
		err := s.attempt(ctx, what, stall, request)
		var e *Error
		if err == nil || !errors.As(err, &e) || !e.passing {
			return err
		}
		if attempt >= s.cfg.Attempts {
			if attempt > 1 {
				e.Message += fmt.Sprintf(" (after %d attempts)", attempt)
			}
			return e
		}
		s.log.Warn("request to S3 failed, trying again", zap.String("request", what), zap.Int("attempt", attempt), zap.String("error", e.Message))
		if err := webclient.Pause(ctx, attempt, s.cfg.MaxBackoff); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

func (s *Store) attempt(ctx context.Context, what string, stall time.Duration, request func(ctx context.Context, beat func()) error) error {
	if stall == 0 {
		stall = s.cfg.StallTimeout
	}
	watched, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer timer.Stop()
	if err := request(watched, func() { timer.Reset(stall) }); err != nil {
		return s.failed(watched, what, err)
	}
	return nil
}
