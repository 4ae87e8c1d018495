package operation

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Defaults of a schedule.
const (
	// DefaultScheduledAnswerWithin bounds a park of a scheduled run: nobody is there to answer, and while a run waits the next ones are skipped.
	DefaultScheduledAnswerWithin = Duration(15 * time.Minute)
	// DefaultCatchUp is how late a run may begin when Temporal was down at its time: a backup of 03:00 never starts at noon.
	DefaultCatchUp = Duration(6 * time.Hour)
)

// MemoSchedule is the field of a scheduled run's memo that holds the ScheduleDefinition.
const MemoSchedule = "katoflowSchedule"

// scheduleIDPrefix keeps katoflow's schedules apart from others in the namespace.
const scheduleIDPrefix = "schedule/"

// ScheduleID of the Temporal schedule with that name.
func ScheduleID(name string) string { return scheduleIDPrefix + name }

// ScheduleName is the inverse of ScheduleID; false for a schedule that is not katoflow's.
func ScheduleName(scheduleID string) (string, bool) {
	name, ours := strings.CutPrefix(scheduleID, scheduleIDPrefix)
	return name, ours && name != ""
}

var scheduleNameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// CheckScheduleName says what is wrong with a schedule's name. It is at most 40 characters, so that the ids of its runs are operation ids.
func CheckScheduleName(name string) error {
	if !scheduleNameForm.MatchString(name) {
		return fmt.Errorf("schedule %q: use 1 to 40 of a-z, 0-9 and '-', beginning and ending with a letter or digit", Shorten(name, 80))
	}
	return nil
}

// ScheduleDefinition is a schedule as it was asked for. It is kept in the memo of the schedule's action, and so of every run: Temporal itself keeps
// only what became of it.
type ScheduleDefinition struct {
	Name    string `json:"name"`
	Cluster string `json:"cluster"`
	// Operation as its command is called, such as "upgrade security", and its options under the names of the command's flags.
	Operation string            `json:"operation"`
	Options   map[string]string `json:"options,omitempty"`
	// Cron has five fields each; Calendar has the fields by their names. At least one of both is there.
	Cron     []string            `json:"cron,omitempty"`
	Calendar []map[string]string `json:"calendar,omitempty"`
	// TimeZone is an IANA name.
	TimeZone string   `json:"timeZone"`
	Jitter   Duration `json:"jitter"`
	CatchUp  Duration `json:"catchUp"`
}

// Schedule makes a request one for every run of a schedule: it has no operation id, because every run takes its own from its workflow id, and no
// digest, because the inventory may change between the nights. Its time may have passed by as much as the schedule says, whether it was Temporal that
// was down or all workers.
func (r *Request) Schedule(d ScheduleDefinition) {
	r.OperationID, r.InventoryDigest, r.RequestedBy, r.StartWithin = "", "", "schedule "+d.Name, d.CatchUp
	if r.AnswerWithin == 0 {
		r.AnswerWithin = DefaultScheduledAnswerWithin
	}
}

// scheduledForm is the end of a workflow id that Temporal appends for a schedule: the nominal time, in UTC.
var scheduledForm = regexp.MustCompile(`^([a-z0-9-]+)-([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})Z$`)

// scheduledID is the form in which an operation id carries that time. No two times have the same.
var scheduledID = regexp.MustCompile(`-[0-9]{8}t[0-9]{6}z$`)

// ReservedID reports whether an operation id has the form that only the runs of schedules have.
func ReservedID(id string) bool { return scheduledID.MatchString(id) }

// operationID is the last part of a workflow id as an operation id: a schedule's time stamp is written with what an id may have.
func operationID(last string) string {
	return scheduledForm.ReplaceAllString(last, "$1-$2$3${4}t$5$6${7}z")
}
