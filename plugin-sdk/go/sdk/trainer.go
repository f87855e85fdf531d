// Package trainer is for rewards of trainer in Go: the canonical ABI of the contract's world
// `reward`, and what an author needs. A plugin calls Register in an init function.
package trainer

import (
	"strconv"
	"strings"
	"unsafe"
)

// Kind of the values of a column.
type Kind uint8

// The kinds; the values of JSON are the text of any value.
const (
	Text Kind = iota
	Int
	Float
	Bool
	Binary
	JSON
)

// Column is a column that a plugin reads.
type Column struct {
	Name     string
	Kind     Kind
	Optional bool
}

// Part is a named share of a score, for the log.
type Part struct {
	Name  string
	Value float64
}

// Score of a row; without a value the reward has no opinion on it.
type Score struct {
	HasValue bool
	Value    float64
	Parts    []Part
}

// Reward is a plugin.
type Reward struct {
	Name    string // lower-case letters, digits and dashes
	Version string
	Summary string // one sentence
	Schema  string // JSON Schema of the options, or ""
	Columns []Column
	// Configure gets the options (a JSON object that fits the schema) once; its error names the
	// option that can't be used.
	Configure func(options []byte, seed uint64) error
	Score     func(row Row) Score
}

// OptionNumber reads a number of a flat options object; otherwise where it was not given. The
// package encoding/json reads whatever it is, but adds two megabytes to the component.
func OptionNumber(options []byte, name string, otherwise float64) float64 {
	_, rest, found := strings.Cut(string(options), strconv.Quote(name))
	rest, colon := strings.CutPrefix(strings.TrimLeft(rest, " \t\r\n"), ":")
	if !found || !colon {
		return otherwise
	}
	if end := strings.IndexAny(rest, ",}"); end >= 0 {
		rest = rest[:end]
	}
	if value, err := strconv.ParseFloat(strings.TrimSpace(rest), 64); err == nil {
		return value
	}
	return otherwise
}

var reward Reward

// Register makes r the component's reward.
func Register(r Reward) { reward = r }

// Level of a line of the log.
type Level int32

// The levels.
const (
	Debug Level = iota
	Info
	Warn
	Error
)

//go:wasmimport trainer:plugin/host@0.1.0 log
func hostLog(level int32, ptr unsafe.Pointer, len uint32)

// Log writes a line to the run's log.
func Log(level Level, message string) {
	hostLog(int32(level), unsafe.Pointer(unsafe.StringData(message)), uint32(len(message)))
}

type rawList struct {
	ptr uint32
	len uint32
}

type rawColumn struct {
	name   rawList
	kind   uint8
	values rawList
	nulls  rawList
}

func slice[T any](l rawList) []T {
	if l.len == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(uintptr(l.ptr))), l.len)
}

func text(l rawList) string {
	if l.len == 0 {
		return ""
	}
	return unsafe.String((*byte)(unsafe.Pointer(uintptr(l.ptr))), l.len)
}

// Row is one row. A getter's second result is false where there is no value, no such column, or
// one of another kind.
type Row struct {
	columns []rawColumn
	index   uint32
}

func (r Row) column(name string, kind Kind) *rawColumn {
	for i := range r.columns {
		c := &r.columns[i]
		if text(c.name) != name {
			continue
		}
		if c.kind != uint8(kind) {
			return nil
		}
		for _, null := range slice[uint32](c.nulls) {
			if null == r.index {
				return nil
			}
			if null > r.index {
				break
			}
		}
		return c
	}
	return nil
}

func value[T any](r Row, name string, kind Kind) (T, bool) {
	if c := r.column(name, kind); c != nil {
		return slice[T](c.values)[r.index], true
	}
	var none T
	return none, false
}

// Text is the value of a column of texts.
func (r Row) Text(name string) (string, bool) {
	l, ok := value[rawList](r, name, Text)
	return text(l), ok
}

// JSON is the JSON text of a value.
func (r Row) JSON(name string) (string, bool) {
	l, ok := value[rawList](r, name, JSON)
	return text(l), ok && text(l) != "null"
}

// Int is the value of a column of integers.
func (r Row) Int(name string) (int64, bool) { return value[int64](r, name, Int) }

// Float is the value of a column of numbers.
func (r Row) Float(name string) (float64, bool) { return value[float64](r, name, Float) }

// What the host was given or gives lives here until it has read the answer.
var live []any

func keep[T any](list []T) rawList {
	if len(list) == 0 {
		return rawList{}
	}
	live = append(live, list)
	return rawList{uint32(uintptr(unsafe.Pointer(unsafe.SliceData(list)))), uint32(len(list))}
}

func keepText(s string) rawList { return keep([]byte(s)) }

func address[T any](value T) uint32 {
	list := []T{value}
	return keep(list).ptr
}

//go:wasmexport cabi_realloc
func realloc(old, oldSize, align, size uint32) uint32 {
	if size == 0 {
		return align
	}
	// Memory of 64-bit words has every alignment that is asked for.
	words := make([]uint64, (size+7)/8)
	at := keep(words).ptr
	if old != 0 && oldSize != 0 {
		from := slice[byte](rawList{old, oldSize})
		copy(slice[byte](rawList{at, size}), from)
	}
	return at
}

type rawNeed struct {
	name     rawList
	kind     uint8
	optional bool
}

type rawReads struct {
	columns   rawList
	wholeRows bool
}

type rawInfo struct {
	name, version, summary rawList
	reads                  rawReads
	schema                 rawList
	deterministic          bool
}

func reads() rawReads {
	needs := make([]rawNeed, len(reward.Columns))
	for i, c := range reward.Columns {
		needs[i] = rawNeed{keepText(c.Name), uint8(c.Kind), c.Optional}
	}
	return rawReads{columns: keep(needs)}
}

//go:wasmexport trainer:plugin/rewards@0.1.0#describe
func describe() uint32 {
	return address(rawInfo{
		keepText(reward.Name), keepText(reward.Version), keepText(reward.Summary),
		reads(), keepText(reward.Schema), true,
	})
}

type rawConfigured struct {
	isError bool
	reads   rawReads
}

type rawFault struct {
	isError bool
	tag     uint32
	message rawList
}

//go:wasmexport trainer:plugin/rewards@0.1.0#configure
func configure(ptr, len uint32, seed uint64) uint32 {
	options := append([]byte(nil), slice[byte](rawList{ptr, len})...)
	if reward.Configure != nil {
		if fault := reward.Configure(options, seed); fault != nil {
			return address(rawFault{true, 0, keepText(fault.Error())})
		}
	}
	return address(rawConfigured{false, reads()})
}

type rawPart struct {
	name  rawList
	value float64
}

type rawScore struct {
	hasValue bool
	value    float64
	parts    rawList
}

type rawScores struct {
	isError bool
	list    rawList
}

//go:wasmexport trainer:plugin/rewards@0.1.0#score
func score(rows, columns, numColumns, whole, numWhole uint32) uint32 {
	cells := slice[rawColumn](rawList{columns, numColumns})
	scores := make([]rawScore, rows)
	for i := range scores {
		s := reward.Score(Row{cells, uint32(i)})
		parts := make([]rawPart, len(s.Parts))
		for j, p := range s.Parts {
			parts[j] = rawPart{keepText(p.Name), p.Value}
		}
		scores[i] = rawScore{s.HasValue, s.Value, keep(parts)}
	}
	return address(rawScores{false, keep(scores)})
}

//go:wasmexport cabi_post_trainer:plugin/rewards@0.1.0#describe
func afterDescribe(uint32) { live = nil }

//go:wasmexport cabi_post_trainer:plugin/rewards@0.1.0#configure
func afterConfigure(uint32) { live = nil }

//go:wasmexport cabi_post_trainer:plugin/rewards@0.1.0#score
func afterScore(uint32) { live = nil }
