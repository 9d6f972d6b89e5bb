package regions

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// slogCore hands etcd's warnings and errors to slog, a step milder: they are about
// a development server. The rest is noise.
type slogCore struct {
	log    *slog.Logger
	fields []zapcore.Field
}

// etcd calls Fatal or Panic where it would end the process, as when its disk is full. fatal hears
// of that instead, and the goroutine ends: who embeds etcd has more in this process, and
// its people want to know why it ends.
func newZap(log *slog.Logger, fatal func(error)) *zap.Logger {
	return zap.New(&slogCore{log: log}, zap.WithFatalHook(fatalHook(fatal)), zap.WithPanicHook(fatalHook(fatal)))
}

type fatalHook func(error)

// OnWrite implements zapcore.CheckWriteHook.
func (h fatalHook) OnWrite(e *zapcore.CheckedEntry, fs []zapcore.Field) {
	err := errors.New(e.Message)
	for _, f := range fs {
		if cause, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			err = fmt.Errorf("%s: %w", e.Message, cause)
		}
	}
	h(err)
	runtime.Goexit()
}

func (c *slogCore) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

func (c *slogCore) With(fs []zapcore.Field) zapcore.Core { //nolint:ireturn // as zapcore.Core asks
	return &slogCore{log: c.log, fields: append(slices.Clip(c.fields), fs...)}
}

func (c *slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c *slogCore) Write(e zapcore.Entry, fs []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range c.fields {
		f.AddTo(enc)
	}
	for _, f := range fs {
		f.AddTo(enc)
	}
	level := slog.LevelInfo
	if e.Level > zapcore.WarnLevel {
		level = slog.LevelWarn
	}
	attrs := make([]slog.Attr, 0, len(enc.Fields)+1)
	attrs = append(attrs, slog.String("said", e.Message))
	for k, v := range enc.Fields {
		attrs = append(attrs, slog.Any(k, v))
	}
	c.log.LogAttrs(context.Background(), level, "etcd has a complaint", attrs...)
	return nil
}

func (c *slogCore) Sync() error { return nil }
