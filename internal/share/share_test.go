package share

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestShare_AllParts_AreTheWholeAndShareNothing(t *testing.T) {
	for parts := 1; parts <= 7; parts++ {
		tried := map[int]int{}
		for part := 1; part <= parts; part++ {
			s, err := Parse(fmt.Sprintf("%d/%d", part, parts))
			require.NoError(t, err)
			for i := range 23 {
				if s.Has(i) {
					tried[i]++
				}
			}
		}
		for i := range 23 {
			require.Equal(t, 1, tried[i])
		}
	}
}

func TestHasTurn_OfThree_EveryPartHasOneAndTwoPartsHaveTheSame(t *testing.T) {
	tried := map[int]int{}
	for part := 1; part <= 6; part++ {
		s, err := Parse(fmt.Sprintf("%d/6", part))
		require.NoError(t, err)
		for i := range 3 {
			if s.HasTurn(i, 3) {
				tried[i]++
			}
		}
	}
	require.Equal(t, map[int]int{0: 2, 1: 2, 2: 2}, tried)
	require.True(t, Share{}.HasTurn(1, 3), "without a share all have")
}

func TestParse_WhatIsNoPart_IsRefused(t *testing.T) {
	for _, text := range []string{"0/4", "5/4", "1", "a/b", "1/2/3", "-1/4", "1/0"} {
		_, err := Parse(text)
		require.Error(t, err, text)
	}
	all, err := Parse("")
	require.NoError(t, err)
	require.True(t, all.Has(0) && all.Has(5))
	require.Equal(t, "all", all.String())
}

func TestHasName_OverAllParts_EveryNameHasItsTurn(t *testing.T) {
	const parts = 12
	for _, hands := range []int{1, 3, 4, 12} {
		tried, together := make([]int, parts), 0
		for i := range 1200 {
			name, turns := fmt.Sprint("TestCase", i), 0
			for part := range parts {
				s, err := Parse(fmt.Sprintf("%d/%d", part+1, parts))
				require.NoError(t, err)
				if s.HasName(name, hands, 0) {
					turns++
					tried[part]++
					if hands > 1 && s.HasName(name, hands, 1) {
						together++
					}
				}
			}
			require.Equal(t, parts/hands, turns, name)
			require.True(t, Share{}.HasName(name, hands, 0), "without a share all are tried")
		}
		require.Zero(t, together)
		for _, n := range tried {
			require.InDelta(t, 1200/hands, n, 100)
		}
	}
}
